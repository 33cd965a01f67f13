"""The report as a browser shows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import chromium, opened


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def test_the_browser_reports_what_goes_wrong(browser: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        "<!DOCTYPE html><canvas></canvas><img src='http://example.org/a.png'>"
        "<div style='width: 3000px'>wide</div>"
        "<script>document.querySelector('canvas').getContext('webgl2').getParameter(0x1F00);"
        "throw new Error('thrown')</script>"
    )
    with opened(browser, page.as_uri()) as seen:
        assert any("thrown" in error for error in seen.errors)
        assert seen.asked == ["http://example.org/a.png"] and seen.is_wider_than_the_screen
    page.write_text("<!DOCTYPE html><p style='background: #102030; height: 90px'></p>")
    with opened(browser, page.as_uri()) as seen:
        assert not (seen.errors or seen.asked or seen.is_wider_than_the_screen)
        assert (seen.pixels("p") == (0x10, 0x20, 0x30)).all()
