"""A page as Chromium shows it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import NamedTuple


class Shown(NamedTuple):
    """A page after its scripts ran."""

    dom: str
    console: list[str]
    "What scripts, and violations of the content security policy, wrote to the console."


async def shown_page(url: str, directory: Path, *, width: int = 1280) -> Shown:
    """Load `url`; `directory` is for the browser's own files."""
    # Chromium's windows are at least 500 pixels wide: narrower pages are scaled.
    scale = max(1.0, 500 / width)
    browser = await asyncio.create_subprocess_exec(
        "chromium",
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--enable-logging=stderr",
        "--virtual-time-budget=3000",
        f"--user-data-dir={directory}",
        f"--window-size={round(width * scale)},900",
        f"--force-device-scale-factor={scale:.4f}",
        "--dump-dom",
        url,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "HOME": str(directory)},
    )
    try:
        dom, log = await asyncio.wait_for(browser.communicate(), 90)
    finally:
        if browser.returncode is None:
            browser.kill()
            await browser.wait()
    lines = log.decode(errors="replace").splitlines()
    return Shown(dom.decode(), [line for line in lines if "CONSOLE" in line])
