"""A headless Chromium that can reach only files and this machine.

    page = open_page(browser, url)

Tests that open a page are skipped where Chromium or Playwright is missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.types import Array

_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
# WebGL 2 is drawn by the CPU, and the rest without WebGL. No name is looked up and no address but
# this machine's is reached.
_OPTIONS = (
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-gpu-compositing",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--disable-background-networking",
)
_FRAMES = """
window.requestAnimationFrame = call => setTimeout(() => call(performance.now()), 100);
window.cancelAnimationFrame = clearTimeout;
"""
"""Ten frames a second, because the CPU draws them: a viewer draws again while nothing changes."""
_LOCAL = ("file:", "data:", "blob:", "about:", "http://127.0.0.1", "ws://127.0.0.1")


@dataclass
class Opened:
    """A page, the errors of its console, and the non-local addresses that it requested."""

    page: Any
    errors: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def go(self, url: str) -> None:
        """Open another page in this window, and forget errors and requests of the page before.

        It takes a quarter of the time of a new window.
        """
        self.page.goto("about:blank")
        self.errors.clear()
        self.asked.clear()
        self.page.goto(url)

    def hear(self, said: Any) -> None:
        """Record a line of the console."""
        if said.type == "error":
            self.errors.append(said.text)

    def watch(self, request: Any) -> None:
        """Record a request."""
        if not request.url.startswith(_LOCAL):
            self.asked.append(request.url)

    def dismiss(self, dialog: Any) -> None:
        """Record a dialog: only injected script opens one."""
        self.errors.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def pixels(self, selector: str) -> Array:
        """Return an element as it is displayed, (H, W, 3) u1."""
        return _decoded(self.page.locator(selector).first.screenshot())

    def corner(self) -> Array:
        """Return the colour at the top left of the window, (3,) u1."""
        clip = {"x": 0, "y": 0, "width": 1, "height": 1}
        return np.asarray(_decoded(self.page.screenshot(clip=clip))[0, 0])

    def until(self, truth: str) -> None:
        """Wait until an expression is true; AssertionError after ten seconds.

        Playwright's own wait evaluates a text inside the page, which the page's policy may forbid.
        """
        for _ in range(200):
            if self.page.evaluate(truth):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"never: {truth}")

    @property
    def is_wider_than_the_screen(self) -> bool:
        """Tell whether the whole page scrolls sideways."""
        wide = "document.scrollingElement.scrollWidth > window.innerWidth"
        return bool(self.page.evaluate(wide))


def _decoded(shot: bytes) -> Array:
    return np.asarray(Image.open(BytesIO(shot)).convert("RGB"))


@contextmanager
def chromium() -> Iterator[Any]:
    """Start the browser; the test is skipped where it is missing."""
    sync_api = pytest.importorskip("playwright.sync_api")
    path = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_OPTIONS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Any, url: str, width: int = 1400, height: int = 900, scheme: str = "light"
) -> Iterator[Opened]:
    """Open ``url`` in a new window; ``scheme`` is light or dark."""
    size = {"width": width, "height": height}
    context = browser.new_context(viewport=size, color_scheme=scheme)
    context.add_init_script(_FRAMES)
    seen = Opened(context.new_page())
    seen.page.on("pageerror", lambda error: seen.errors.append(str(error)))
    seen.page.on("console", seen.hear)
    seen.page.on("dialog", seen.dismiss)
    context.on("request", seen.watch)
    seen.page.goto(url)
    try:
        yield seen
    finally:
        context.close()
