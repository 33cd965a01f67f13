"""The live viewer as a browser shows it, on a real run, served by the real command."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.types import Array
from tests.support.asked_run import INJECTED, AskedRun, made_asked
from tests.support.browser import Opened, chromium, opened
from tests.support.cli import REPOSITORY, environment
from tests.support.warm import Forked, forker

pytest.importorskip("viser")

__all__ = ["made_asked"]
_PATIENCE = 90.0


@dataclass(frozen=True)
class Served:
    """The command that serves the viewer, the page's address, and all that it printed."""

    run: Forked
    address: str
    log: Path


@pytest.fixture(scope="module")
def served(made_asked: AskedRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    line = ["python", "-m", "pipeline", "view", "--scene-set", made_asked.scene_set]
    log = tmp_path_factory.mktemp("view") / "log"
    env = environment(made_asked.output)
    with open(log, "wb") as printed:
        run = forker().start([*line, "--no-browser"], REPOSITORY, env, printed.fileno())
    try:
        _until(lambda: "\n" in log.read_text() or run.poll() is not None)
        address = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
        assert address is not None, log.read_text()
        yield Served(run, address[0], log)
    finally:
        run.kill()
        run.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def window(browser: Any) -> Iterator[Opened]:
    # The scan is drawn by the CPU, again and again.
    with opened(browser, "about:blank", 900, 600) as found:
        yield found


@pytest.fixture(scope="module")
def viewer(window: Opened, served: Served) -> Opened:
    """The viewer, opened once: its scripts take seconds to start."""
    window.go(served.address)
    _until(lambda: window.page.locator("textarea").count() > 1)
    _until(lambda: not re.search(r"Starting|Loading|Reading", _status(window)))
    return window


@pytest.fixture
def seen(viewer: Opened) -> Iterator[Opened]:
    """The viewer as the test before left it; nothing may go wrong in it."""
    yield viewer
    assert not viewer.errors and not viewer.asked


def _until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE
    while not is_so():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def _status(seen: Opened) -> str:
    return str(seen.page.locator("textarea").first.input_value())


def _ask(seen: Opened, text: str, told: str) -> None:
    """Type a query, ask, and wait until the page tells so."""
    seen.page.locator("form input").first.fill(text)
    seen.page.get_by_role("button", name="Ask the student").click()
    _until(lambda: re.search(told, _status(seen)) is not None)


def _settled(seen: Opened) -> Array:
    """The left half of the page, which shows the scan alone, once it stands still."""
    before = seen.pixels("canvas")
    for _ in range(100):
        time.sleep(0.3)
        after = seen.pixels("canvas")
        if np.array_equal(before, after):
            break
        before = after
    return after[130:, :560].astype(int)


def _glowing(pixels: Array) -> int:
    """Pixels of the answer's amber."""
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    return int(np.count_nonzero((red > 100) & (red > green * 1.2) & (green > blue * 2)))


def test_a_typed_query_changes_the_colours_of_points(seen: Opened) -> None:
    plain = _settled(seen)
    assert len(np.unique(plain.reshape(-1, 3), axis=0)) > 50, "a blank canvas"
    _ask(seen, "the chair", r"Answered in [\d.]+ s")
    shown = _settled(seen)
    assert _glowing(shown) > _glowing(plain) + 30
    fields = [box.input_value() for box in seen.page.locator("input[disabled]").all()]
    assert any(re.fullmatch(r"0\.\d\d|1\.00", field) for field in fields)
    assert any(re.fullmatch(r"[\d,]+ of [\d,]+", field) for field in fields)


def test_the_scan_turns_under_the_mouse(seen: Opened) -> None:
    before = _settled(seen)
    mouse = seen.page.mouse
    mouse.move(300, 350)
    mouse.down()
    mouse.move(430, 335, steps=6)
    mouse.up()
    after = _settled(seen)
    assert np.mean(np.any(np.abs(after - before) > 20, axis=-1)) > 0.02


def test_an_injected_query_stays_text(seen: Opened) -> None:
    _ask(seen, INJECTED, r"Answered in|Nothing found")
    _settled(seen)
    boxes = [box.input_value() for box in seen.page.locator("textarea").all()]
    assert INJECTED in boxes
    assert seen.page.locator("img[src='x']").count() == 0


def test_mistakes_are_told_in_the_page(seen: Opened) -> None:
    _ask(seen, "  ", "Error: the query is empty")
    notice = seen.page.locator("[role=alert]", has_text="the query is empty")
    _until(lambda: notice.count() > 0)
    seen.page.locator("form input").first.fill("the chair")
    seen.page.get_by_role("button", name="Ask the teacher").click()
    _until(lambda: "Error: the teacher of this config is the oracle" in _status(seen))


def test_stored_queries_and_truth_are_shown(seen: Opened) -> None:
    choices = seen.page.locator(".mantine-Select-input")
    count = choices.count()

    def choose(index: int, which: Callable[[Any], Any]) -> None:
        choices.nth(index).click()
        options = seen.page.locator("[role=option]:visible")
        _until(lambda: options.count() > 1)
        which(options).click()

    choose(count - 3, lambda options: options.nth(1))
    asked = seen.page.locator("textarea").nth(1)
    _until(lambda: choices.nth(count - 3).input_value() == f"1. {asked.input_value()}")
    choose(count - 2, lambda options: options.filter(has_text="truth"))
    _until(lambda: choices.nth(count - 2).input_value() == "truth")
    seen.page.get_by_text("Cameras").first.wait_for()
    seen.page.locator("input[type=checkbox]").last.check(force=True)
    _settled(seen)
    assert not _status(seen).startswith("Error")


def test_no_share_button(seen: Opened) -> None:
    assert seen.page.get_by_text("Share", exact=False).count() == 0
    assert seen.page.get_by_role("button", name=re.compile("share", re.I)).count() == 0


def test_ctrl_c_ends_it(served: Served) -> None:
    served.run.send_signal(signal.SIGINT)
    assert served.run.wait(_PATIENCE) == 0
    assert served.log.read_text().partition("\n")[2].split() == ["ended"]
