"""A tab of Chromium that a test types into, by the DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.support.nodes import wait_for

STARTED_S: Final = 30.0
MAX_MESSAGE_BYTES: Final = 16 * 2**20
_KEY_CODES: Final = {"Enter": 13, "Escape": 27}


class Tab:
    """A page that stays open."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.console: list[str] = []
        "What scripts wrote to the console."
        self._socket = socket
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a method of the DevTools protocol."""
        number = len(self._replies)
        self._replies[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        reply = await asyncio.wait_for(self._replies[number], STARTED_S)
        assert "error" not in reply, reply
        result: dict[str, Any] = reply["result"]
        return result

    async def type(self, text: str) -> None:
        """Press the key of each character, and Enter at last."""
        for char in text:
            await self.press(char, char)
        await self.press("Enter", "\r")

    async def press(self, key: str, text: str = "") -> None:
        """Press and release a key; `text` is what it writes."""
        code = _KEY_CODES.get(key) or ord(key.upper())
        pressed = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        await self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **pressed)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **pressed)

    async def picture(self, width: int, height: int) -> bytes:
        """The upper left part of the page, as PNG."""
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = await self.call("Page.captureScreenshot", clip=clip)
        return base64.b64decode(shot["data"])

    async def listen(self) -> None:
        """Take what the browser sends, until it is gone."""
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                self._replies[said["id"]].set_result(said)
            elif said["method"] == "Runtime.consoleAPICalled":
                values = (str(arg.get("value", "")) for arg in said["params"]["args"])
                self.console.append(" ".join(values))
            elif said["method"] == "Runtime.exceptionThrown":
                self.console.append(str(said["params"]["exceptionDetails"]))


@asynccontextmanager
async def open_tab(url: str, directory: Path) -> AsyncIterator[Tab]:
    """Show `url`, with WebGL by the processor; `directory` is for the browser's own files."""
    browser = await asyncio.create_subprocess_exec(
        "chromium",
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        "--remote-debugging-port=0",
        f"--user-data-dir={directory}",
        "--window-size=640,480",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "HOME": str(directory)},
    )
    try:
        chosen = directory / "DevToolsActivePort"
        await wait_for(lambda: chosen.exists() and "\n" in chosen.read_text(), STARTED_S)
        port = chosen.read_text().split()[0]
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            async with session.get("/json/list") as listed:
                (target,) = [row for row in await listed.json() if row["type"] == "page"]
            address = target["webSocketDebuggerUrl"]
            async with session.ws_connect(address, max_msg_size=MAX_MESSAGE_BYTES) as socket:
                tab = Tab(socket)
                listening = asyncio.create_task(tab.listen(), name="devtools")
                try:
                    await tab.call("Runtime.enable")
                    await tab.call("Page.navigate", url=url)
                    yield tab
                finally:
                    listening.cancel()
                    await asyncio.wait([listening])
    finally:
        if browser.returncode is None:
            browser.terminate()
            try:
                await asyncio.wait_for(browser.wait(), STARTED_S)
            except TimeoutError:
                browser.kill()
                await browser.wait()
