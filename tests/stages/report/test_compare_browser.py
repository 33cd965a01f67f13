"""The page of compared runs as a browser shows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from data.types import Array
from stages.configs import ReportConfig
from stages.report.compare import run
from tests.support.browser import Opened, chromium, opened
from tests.support.worlds.compared import tiny_inputs

SLEEP, TOILET = "where can I sleep?", "the toilet"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def window(browser: Any) -> Iterator[Opened]:
    with opened(browser, "about:blank") as found:
        yield found


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    page = tmp_path_factory.mktemp("page") / "compare.html"
    page.write_text(run(tiny_inputs(), ReportConfig(picture_width=160)).html, encoding="utf-8")
    return page.as_uri()


@pytest.fixture
def seen(window: Opened, url: str) -> Opened:
    """The page, opened anew."""
    window.go(url)
    return window


def settle(seen: Opened) -> None:
    """Wait until what was asked for is drawn."""
    seen.page.wait_for_function(
        "!document.getElementById('viewer-state').textContent.includes('…')"
    )
    frames = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    seen.page.evaluate(frames)


def sentences(seen: Opened) -> list[str]:
    """Those of the table's rows that are shown, from the top."""
    return list(seen.page.locator("#rows tbody tr:visible td:first-child").all_inner_texts())


def heads(seen: Opened) -> list[str]:
    return list(seen.page.locator("#cards article:visible h3").all_inner_texts())


@pytest.mark.parametrize("width", [1400, 400])
def test_it_opens_without_errors_and_asks_for_nothing(browser: Any, url: str, width: int) -> None:
    with opened(browser, "about:blank", width=width) as seen:
        for scheme in ("light", "dark"):
            seen.page.emulate_media(color_scheme=scheme)
            seen.go(url)
            assert not seen.is_wider_than_the_screen
            seen.page.locator("#pictures").scroll_into_view_if_needed()
            drawn = "Array.from(document.images).every((i) => i.complete && i.naturalWidth > 0)"
            seen.page.evaluate("for (const image of document.images) image.loading = 'eager'")
            seen.page.wait_for_function(drawn)
            assert not seen.errors and not seen.asked
            assert seen.page.locator("svg path.gained").count() == 3


def test_hostile_text_is_shown_as_text(seen: Opened) -> None:
    for place in ("#rows", "#runs", "#cards"):
        assert "<img src=x onerror=alert(1)>" in seen.page.locator(place).inner_text()
    assert seen.page.locator("img[src=x]").count() == 0
    assert not seen.errors


def test_the_table_sorts_by_mouse_and_by_keys_and_cards_follow(seen: Opened) -> None:
    first = sentences(seen)
    button = seen.page.locator("th[data-key=change1] button")
    button.click()
    header = seen.page.locator("th[data-key=change1]")
    assert header.get_attribute("aria-sort") == "ascending"
    assert sentences(seen)[0] == heads(seen)[0] == SLEEP  # The only query that was lost.
    button.press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    assert sentences(seen)[-1] == heads(seen)[-1] == SLEEP
    seen.page.locator("th[data-key=text] button").press("Space")
    assert sentences(seen) == sorted(first, key=lambda text: text.strip("<").lower())
    assert not seen.errors


def test_the_table_filters_and_cards_follow(seen: Opened) -> None:
    page = seen.page
    page.locator("select[data-key=kind]").select_option("lost")
    assert sentences(seen) == heads(seen) == [SLEEP]
    assert page.locator("#shown").inner_text() == "1 of 5 queries"
    page.locator("select[data-key=kind]").select_option("")
    page.locator("#least").fill("1")
    assert len(sentences(seen)) == 4  # One is as before.
    page.locator("#least").fill("")
    page.locator("select[data-key=targets]").select_option("zero")
    assert sentences(seen) == heads(seen) == [TOILET]
    page.locator("select[data-key=targets]").select_option("")
    page.locator("#find").fill("SLEEP")
    assert sentences(seen) == [SLEEP]
    page.locator("#find").press("Enter")  # It sends nothing and stays.
    assert sentences(seen) == [SLEEP] and not seen.errors and not seen.asked


def test_a_sentence_leads_to_its_pictures(seen: Opened) -> None:
    seen.page.locator("#rows").get_by_role("link", name=TOILET).press("Enter")
    assert seen.page.locator("article:target h3").inner_text() == TOILET


def test_runs_are_set_against_each_other_in_3d(seen: Opened) -> None:
    # A click may come too late: whoever scrolls to the pictures finds the first in 3D already.
    seen.page.evaluate("location.hash = 'q0'")
    seen.page.wait_for_selector("#q0.open #viewer:not([hidden])")
    labels = seen.page.locator("#viewer-modes button").all_inner_texts()
    assert labels == ["Colour", "Truth", "Run 1", "Run 2", "Runs 1 and 2", "Run 2 against 1"]
    pictures = []
    for label in labels:
        seen.page.get_by_role("button", name=label, exact=True).click()
        settle(seen)
        pictures.append(seen.pixels("#viewer canvas").astype(int))
    assert pictures[0].std() > 10  # The scan is there.
    # The first query is one that a single run answered, so the runs differ there.
    for one, two in ((0, 5), (2, 3)):
        assert (np.abs(pictures[one] - pictures[two]).max(axis=2) > 12).mean() > 0.002
    legend = seen.page.locator("#viewer-legend").inner_text().split("\n")
    assert legend == ["in both", "run 2 only", "run 1 only"]
    seen.page.locator("#viewer canvas").press("ArrowLeft")
    settle(seen)
    turned = seen.pixels("#viewer canvas").astype(int)
    assert (np.abs(turned - pictures[-1]).max(axis=2) > 12).mean() > 0.02
    assert not seen.errors and not seen.asked


def test_two_runs_stand_side_by_side_in_3d_and_turn_together(seen: Opened) -> None:
    seen.page.evaluate("location.hash = 'q0'")
    seen.page.wait_for_selector("#q0.open #viewer:not([hidden])")
    pressed = seen.page.locator("#viewer-modes [aria-pressed=true]")
    assert pressed.inner_text() == "Runs 1 and 2"
    assert seen.page.locator("#viewer-captions span").all_inner_texts() == ["Run 1", "Run 2"]
    settle(seen)
    before = halves(seen)
    for half in before:
        assert half.std() > 10
    # One run answered this query and the other did not; the scan is the same.
    differs = np.abs(before[0] - before[1]).max(axis=2) > 12
    assert 0.001 < differs.mean() < 0.2
    seen.page.locator("#viewer canvas").press("ArrowLeft")
    settle(seen)
    after = halves(seen)
    for one, other in zip(before, after, strict=True):
        assert (np.abs(one - other).max(axis=2) > 12).mean() > 0.02
    assert (np.abs(after[0] - after[1]).max(axis=2) > 12).mean() < 0.2
    assert not seen.errors and not seen.asked


def halves(seen: Opened) -> tuple[Array, Array]:
    """The canvas without its border and captions, left and right."""
    pixels = seen.pixels("#viewer canvas").astype(int)[40:-40, 2:-2]
    middle = pixels.shape[1] // 2
    return pixels[:, :middle], pixels[:, pixels.shape[1] - middle :]
