"""The Godot scripts of the page for games, played by the Godot 4.6 engine in Chromium.

They run as they stand, but for the port. The first asks as the chat client of GodotAI does: by
HTTPRequest, with the same body, at the same path, when Enter is pressed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aitorrent_gateway.plugin import GatewayPlugin
from aitorrent_inference.plugin import InferencePlugin
from aitorrentd.api import Chunk, GenerateRequest, Unavailable
from tests.support.clients.chromium_tab import Tab, open_tab
from tests.support.clients.godot_games import GodotGame
from tests.support.gateway_nodes import BackendPlugin, code_blocks
from tests.support.http_nodes import http_node
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import NodeFactory, wait_for

LOADED_S = 60.0
WHOLE, STREAMED = code_blocks("games", "gdscript")
HISTORY = (640, 300)
"Width and height, in pixels, of what is surely above the input line."

SCENE = """[gd_scene format=3]
[ext_resource type="Script" path="res://chat.gd" id="chat"]
[ext_resource type="Script" path="res://stream.gd" id="stream"]
[ext_resource type="Script" path="res://watch.gd" id="watch"]
[node name="Chat" type="VBoxContainer"]
anchors_preset = 15
anchor_right = 1.0
anchor_bottom = 1.0
script = ExtResource("chat")
[node name="History" type="RichTextLabel" parent="."]
size_flags_vertical = 3
[node name="Input" type="LineEdit" parent="."]
[node name="HTTPRequest" type="HTTPRequest" parent="."]
[node name="Stream" type="Node" parent="."]
script = ExtResource("stream")
[node name="Watch" type="Node" parent="."]
script = ExtResource("watch")
"""
WATCH = """extends Node
var shown := "?"
func _process(_delta: float) -> void:
	var text: String = $"../History".get_parsed_text()
	if text != shown:
		shown = text
		print("shown: ", text.replace("\\n", "|"))
"""
"Prints what the history shows, whenever it changes."
STREAMING_CHAT = """extends Control
func _ready() -> void:
	$Input.text_submitted.connect($Stream.ask)
	$Stream.piece.connect(func(text: String) -> void: $History.add_text(text))
	$Stream.ended.connect(func(problem: String) -> void: $History.add_text("<%s>" % problem))
	$Input.keep_editing_on_text_submit = true
	$Input.grab_focus()
func _input(event: InputEvent) -> void:
	if event.is_action_pressed("ui_cancel"):
		$Stream.cancel()
		get_viewport().set_input_as_handled()
"""


class Paced(FakeBackend):
    """Waits until the test has seen a word before it gives the next."""

    def __init__(self) -> None:
        super().__init__("paced", models=("demo",), words=("Grü", "ße, ", "ça va"))
        self.seen = asyncio.Event()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        async with aclosing(super().generate(request)) as chunks:
            async for chunk in chunks:
                yield chunk
                await self.seen.wait()
                self.seen.clear()


@asynccontextmanager
async def played(
    factory: NodeFactory, directory: Path, backend: FakeBackend, chat: str
) -> AsyncIterator[Tab]:
    """A game with this script, in a browser, once it runs."""
    game = GodotGame()
    plugins: dict[str, Any] = {
        "inference": InferencePlugin(),
        "gateway": GatewayPlugin(),
        "fake": BackendPlugin(backend),
        "game": game,
    }
    _, address = await http_node(factory, *plugins.items())
    port = address.rpartition(":")[2]
    assert "http://localhost:8000/txt" in WHOLE and '"http://localhost", 8000' in STREAMED
    game.files = {
        "main.tscn": SCENE,
        "chat.gd": chat.replace("8000", port),
        "stream.gd": STREAMED.replace("8000", port),
        "watch.gd": WATCH,
    }
    async with open_tab(f"http://localhost:{port}/game/index.html", directory) as tab:
        await shown(tab, "", LOADED_S)
        yield tab
        assert [line for line in tab.console if "ERROR" in line] == []


async def shown(tab: Tab, text: str, timeout_s: float = 20.0) -> None:
    """Wait until the history is `text`."""
    try:
        await wait_for(lambda: f"shown: {text}" in tab.console, timeout_s)
    except AssertionError:
        pytest.fail(f"{text!r} is not shown: {tab.console}")


async def test_typed_text_is_answered_and_drawn(node_factory: NodeFactory, tmp_path: Path) -> None:
    backend = FakeBackend("f", models=("demo",), words=("Bien, ", "et toi?"))
    async with played(node_factory, tmp_path, backend, WHOLE) as tab:
        blank = await tab.picture(*HISTORY)
        assert await tab.picture(*HISTORY) == blank
        await tab.type("salut")
        await shown(tab, "You: salut|Node: Bien, et toi?|")
        assert [(r.prompt, r.messages) for r in backend.requests] == [("salut", None)]
        await wait_for(lambda: differs(tab, blank))
        backend.fails, backend.words = Unavailable("the model is gone"), ()
        await tab.type("encore")
        await shown(tab, "You: salut|Node: Bien, et toi?|You: encore|Node: the model is gone|")


async def differs(tab: Tab, before: bytes) -> bool:
    return await tab.picture(*HISTORY) != before


async def test_pieces_arrive_one_by_one_and_stop_at_a_cancel(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    backend = Paced()
    async with played(node_factory, tmp_path, backend, STREAMING_CHAT) as tab:
        await tab.type("salut")
        for text in ("Grü", "Grüße, ", "Grüße, ça va"):
            await shown(tab, text)
            backend.seen.set()
        await shown(tab, "Grüße, ça va<>")
        assert [m.content for m in backend.requests[0].messages or ()] == ["salut"]
        await tab.type("encore")
        await shown(tab, "Grüße, ça va<>Grü")
        await tab.press("Escape")
        backend.seen.set()
        backend.words, backend.fails = (), Unavailable("the model is gone")
        await tab.type("encore")
        await shown(tab, "Grüße, ça va<>Grü<the model is gone>")
        assert backend.running == 1  # the engine's fetch goes on without its reader
    await wait_for(lambda: backend.running == 0)
