"""The report as a browser shows it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.types import Array
from stages.configs import ReportConfig
from stages.report import report
from tests.support.browser import Opened, chromium, opened
from tests.support.worlds.report_world import ATTACK, answers_of, report_of

SMALL = ReportConfig(picture_width=96)
CANVAS = "#viewer canvas"
GREEN, ORANGE, BLUE, PURPLE = (0, 158, 115), (230, 159, 0), (86, 180, 233), (204, 121, 167)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def window(browser: Any) -> Iterator[Opened]:
    with opened(browser, "about:blank") as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    path = folder / "report.html"
    path.write_text(report.run(report_of(folder), SMALL).html, "utf-8")
    return path


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answers")
    item, record = answers_of(folder)
    path = folder / "report.html"
    path.write_text(report.run_answers(lambda: [item], record, SMALL).html, "utf-8")
    return path


@pytest.fixture
def seen(window: Opened, page: Path) -> Opened:
    """The report, opened anew."""
    window.go(page.as_uri())
    return window


def look_at(seen: Opened, number: int) -> None:
    """Go to a query and wait until its scan is drawn."""
    seen.page.evaluate(f"location.hash = 'q{number}'")
    seen.page.wait_for_selector(f"#q{number}.open #viewer:not([hidden])")
    seen.until("!document.getElementById('viewer-state').textContent.startsWith('Unpacking')")
    settle(seen)


def settle(seen: Opened) -> None:
    """Wait until what was asked to be drawn is."""
    seen.page.evaluate("() => new Promise((d) => requestAnimationFrame(() => setTimeout(d, 60)))")


def share(drawn: Array, color: tuple[int, int, int]) -> float:
    """How much of the canvas has a colour's hue: a tint is a darker or paler shade of it."""
    pixels = drawn.reshape(-1, 3).astype(float)
    lively = pixels - pixels.mean(axis=1, keepdims=True)
    wanted = np.array(color, float) - np.mean(color)
    length = np.linalg.norm(lively, axis=1)
    cosine = lively @ wanted / np.maximum(length * np.linalg.norm(wanted), 1e-9)
    return float(np.mean((cosine > 0.97) & (length > 40)))


def sentences(seen: Opened) -> list[str]:
    """Those of the rows that are shown, in order."""
    rows = seen.page.locator("#rows tbody tr:not([hidden]) .sentence")
    return list(rows.all_inner_texts())


def test_the_browser_reports_what_goes_wrong(window: Opened, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        "<!DOCTYPE html><canvas></canvas><img src='http://example.org/a.png'>"
        "<div style='width: 3000px'>wide</div>"
        "<script>document.querySelector('canvas').getContext('webgl2').getParameter(0x1F00);"
        "throw new Error('thrown')</script>"
    )
    window.go(page.as_uri())
    assert any("thrown" in error for error in window.errors)
    assert window.asked == ["http://example.org/a.png"] and window.is_wider_than_the_screen
    page.write_text("<!DOCTYPE html><p style='background: #102030; height: 90px'></p>")
    window.go(page.as_uri())
    assert not (window.errors or window.asked or window.is_wider_than_the_screen)
    assert (window.pixels("p") == (0x10, 0x20, 0x30)).all()


@pytest.mark.parametrize("width", [1400, 400])
def test_nothing_goes_wrong_at_any_width(
    browser: Any, page: Path, answers: Path, width: int
) -> None:
    with opened(browser, "about:blank", width) as seen:
        for path, scheme in itertools.product((page, answers), ("light", "dark")):
            seen.page.emulate_media(color_scheme=scheme)
            seen.go(path.as_uri())
            look_at(seen, 0)
            assert not (seen.errors or seen.asked or seen.is_wider_than_the_screen)
            assert seen.page.locator("canvas").count() == 1
            assert path.stat().st_size < 1_000_000
            seen.page.evaluate("scrollTo(0, 0)")
            background = seen.corner().astype(int).sum()
            assert (background > 600) == (scheme == "light")


def test_hostile_words_stay_text(window: Opened, page: Path, answers: Path) -> None:
    for path in (page, answers):
        window.go(path.as_uri())
        look_at(window, 0)
        assert window.page.locator("img[src=x], img[onerror]").count() == 0
        assert window.page.locator("#q0 h3").inner_text() == ATTACK
        assert window.page.locator("#q0 .answer").first.inner_text().endswith(f"{ATTACK} 0")
        assert window.page.locator("#q0 .meta").inner_text().count(ATTACK) == 1
        scenes = window.page.locator("select[data-key=scene] option").all_inner_texts()
        assert scenes == ["all", ATTACK]
        assert window.errors == []


def test_the_table_sorts_by_keyboard(seen: Opened) -> None:
    given = sentences(seen)
    header = seen.page.locator("th[data-key=truth] button")
    header.focus()
    seen.page.keyboard.press("Enter")
    # 0 points of what is absent first; the bed is the largest but for the two others.
    rising = sentences(seen)
    assert rising[0] == "a toilet" and sorted(rising) == sorted(given)
    seen.page.keyboard.press("Enter")
    points = seen.page.locator("#rows tbody tr td:last-child").all_inner_texts()
    assert [int(count) for count in points] == sorted(map(int, points), reverse=True)
    cards = seen.page.locator("#cards article h3").all_inner_texts()
    assert cards == sentences(seen)


def test_the_table_filters_by_scene_task_and_score(seen: Opened) -> None:
    form = seen.page.locator("#filters")
    form.locator("select[data-key=task]").select_option("referring")
    assert sentences(seen) == ["the table", "the red chair"]
    form.locator("#most").fill("50")
    assert sentences(seen) == ["the red chair"]
    form.locator("#score").select_option("fusion_only")
    assert sentences(seen) == []
    form.locator("button[type=reset]").click()
    seen.until("document.getElementById('shown').value.startsWith('5 ')")
    assert len(sentences(seen)) == 5
    form.locator("#least").fill("100")
    assert len(sentences(seen)) == 3
    form.locator("select[data-key=scene]").select_option(ATTACK)
    form.locator("#find").fill("TABLE")
    assert sentences(seen) == ["the table"]
    hidden = seen.page.locator("#cards article[hidden]").count()
    assert hidden == 4


def test_the_scan_is_drawn_and_turns(seen: Opened) -> None:
    look_at(seen, 0)
    drawn = seen.pixels(CANVAS).astype(int)
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 50
    box = seen.page.locator(CANVAS).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def drag() -> None:
        seen.page.mouse.move(x, y)
        seen.page.mouse.down()
        seen.page.mouse.move(x + 120, y + 15, steps=4)
        seen.page.mouse.up()

    def moved(do: Callable[[], object]) -> float:
        """The share of the canvas's pixels that change when something is done."""
        nonlocal drawn
        before = drawn
        do()
        settle(seen)
        drawn = seen.pixels(CANVAS).astype(int)
        return float((np.abs(drawn - before).max(axis=2) > 12).mean())

    assert moved(lambda: None) == 0
    assert moved(drag) > 0.05
    for key in ("ArrowLeft", "ArrowUp", "+", "-", "0"):
        assert moved(partial(seen.page.keyboard.press, key)) > 0.02, key
    assert moved(lambda: seen.page.mouse.wheel(0, -300)) > 0.05
    assert moved(lambda: seen.page.locator("[data-turn='1 0']").press("Enter")) > 0.02
    assert moved(lambda: seen.page.locator("#viewer-open").press("Space")) > 0.05
    assert seen.errors == []


def test_the_wheel_scrolls_the_page_until_the_scan_is_clicked(seen: Opened) -> None:
    look_at(seen, 1)
    seen.page.hover(CANVAS)
    before = seen.page.evaluate("scrollY")
    assert before > 0
    seen.page.mouse.wheel(0, -200)
    seen.until(f"scrollY < {before}")


def test_modes_colour_the_points_as_the_legend_says(seen: Opened) -> None:
    look_at(seen, 2)  # The red chair, answered with the table.
    legend = seen.page.locator("#viewer-legend")
    assert "true, missed by the student" in legend.inner_text()
    drawn = seen.pixels(CANVAS)
    assert share(drawn, ORANGE) > 0.002 and share(drawn, BLUE) > 0.002
    assert share(drawn, GREEN) == 0 and share(drawn, PURPLE) == 0
    seen.page.locator("[data-mode=student]").press("Enter")
    settle(seen)
    assert legend.inner_text().strip() == "the student's answer"
    assert seen.page.locator("[aria-pressed=true]").inner_text() == "Prediction"
    table = seen.pixels(CANVAS)
    assert share(table, PURPLE) > 0.002 and share(table, ORANGE) == share(table, BLUE) == 0
    seen.page.click("[data-mode=truth]")
    settle(seen)
    chair = seen.pixels(CANVAS)
    assert share(chair, PURPLE) > 0.002 and (chair != table).any()
    seen.page.click("[data-mode=color]")
    settle(seen)
    assert share(seen.pixels(CANVAS), PURPLE) == 0 and legend.inner_text() == ""


def test_one_canvas_goes_from_query_to_query(seen: Opened) -> None:
    look_at(seen, 0)
    drawn = seen.pixels(CANVAS)
    assert share(drawn, GREEN) > 0.002 and share(drawn, BLUE) == 0
    seen.page.click("#q3 .enlarge")
    look_at(seen, 3)
    assert seen.page.locator("article.open").count() == 1
    assert seen.page.locator("#q3 canvas").count() == 1
    seen.page.evaluate("location.hash = 'q4'")
    look_at(seen, 4)  # Nothing is there; the student draws the bed.
    drawn = seen.pixels(CANVAS)
    assert share(drawn, ORANGE) > 0.002 and share(drawn, GREEN) == 0
    seen.page.click("[data-mode=truth]")
    assert "Nothing is marked" in seen.page.locator("#viewer-state").inner_text()


def test_the_first_query_shows_itself_to_who_reads_on(seen: Opened) -> None:
    assert seen.page.locator("article.open").count() == 0
    seen.page.evaluate("document.getElementById('cards').scrollIntoView()")
    seen.page.wait_for_selector("#q0.open canvas")


def test_without_webgl_the_pictures_stand_in(browser: Any, page: Path, tmp_path: Path) -> None:
    broken = tmp_path / "page.html"
    none = "HTMLCanvasElement.prototype.getContext = () => null"
    with opened(browser, "about:blank") as seen:
        seen.page.add_init_script(none)
        broken.write_text(page.read_text("utf-8"), "utf-8")
        seen.page.goto(broken.as_uri() + "#q1")
        assert "no WebGL" in seen.page.locator("#no-3d").inner_text()
        assert seen.page.locator("canvas").count() == 0 and seen.errors == []
        assert seen.page.locator("#q1 .shots img").first.is_visible()
        assert sentences(seen)[1] == "the table"
