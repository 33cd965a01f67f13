"""The page of compared runs: what it shows, and that hostile text cannot break it."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Collection, Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from data.errors import UserError
from stages.configs import ReportConfig
from stages.evaluation.paired_comparison import RunAnswers, shared_queries
from stages.report.charts import changes_histogram, kind_of, scatter
from stages.report.compare import chance, changed_most, points, run
from stages.report.inputs import ComparedScene, Setting
from stages.report.pictures import BOTH, MISSED, ONLY
from tests.support import page_parser
from tests.support.worlds.compared import HOSTILE, rows, tiny_inputs

SMALL = ReportConfig(picture_width=96)
TWO = ReportConfig(picture_width=96, max_pictures=2)
NONE = ReportConfig(picture_width=96, max_pictures=0)


class Page(page_parser.Page):
    """Also the cells of tables, row by row."""

    def __init__(self, html: str) -> None:
        self.rows: list[list[str]] = []
        super().__init__(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        super().handle_data(data)
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data

    def row(self, first: str) -> list[str]:
        """The first row that begins with a cell of that text."""
        cells = ([" ".join(cell.split()) for cell in row] for row in self.rows)
        return next(row for row in cells if row and row[0] == first)


@pytest.fixture(scope="module")
def html() -> str:
    return run(tiny_inputs(), SMALL).html


def test_figures_of_the_tiny_room_are_shown(html: str) -> None:
    page = Page(html)
    # Run 1 finds the bed alone; run 2 table and chair, and nothing where nothing is.
    assert page.row("mIoU")[1:4] == ["20.0", "40.0", "+20.0"]
    assert page.row("mIoU")[5:] == ["2", "1", "2", "1.000"]
    assert page.row("mIoU, empty = 1")[1:4] == ["20.0", "60.0", "+40.0"]
    assert page.row("Lifted labels")[1:] == ["20.0", "20.0", "0.0 [0.0, 0.0]"]
    # The bed alone in the task; its interval is that of one query.
    assert page.row("implicit")[1:4] == ["1", "Run 1", "100.0"]
    group = next(k for k, row in enumerate(page.rows) if row and row[0] == "implicit")
    told = [" ".join(cell.split()) for cell in page.rows[group + 1]]
    assert told[:2] == ["Run 2", "0.0 ▼ −100.0 [−100.0, −100.0]"]


def test_the_same_inputs_give_the_same_bytes(html: str) -> None:
    assert run(tiny_inputs(), SMALL).html == html


def test_hostile_text_stays_text(html: str) -> None:
    page = Page(html)
    shown = HOSTILE.replace("\ud800", "?")
    assert shown in page.text and f"{shown} 0" in page.text
    assert len(page.code) == 3 and not any("alert(" in text for text in page.code)
    ids = [attrs.get("id") for attrs in page.all("script")]
    assert "<" not in page.scripts[ids.index("data")]
    assert HOSTILE in [row["text"] for row in page.data("data")]
    assert {str(attrs["src"])[:15] for attrs in page.all("img")} == {"data:image/webp"}
    for _, attrs in page.tags:
        assert not [name for name in attrs if name == "style" or name.startswith("on")]


def test_the_policy_allows_the_page_its_own_text_alone(html: str) -> None:
    page = Page(html)
    policy = next(str(m["content"]) for m in page.all("meta") if m.get("http-equiv"))
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    style = html.split("<style>")[1].split("</style>")[0]
    for text in (*page.code, style):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    for tag, attrs in page.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attrs.get(name) or "#"
            assert value.startswith(("#", "data:image/webp")), (tag, name)
    assert not re.search(r"@import|url\(", style)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {str(a["href"])[1:] for a in page.all("a")} <= set(ids)
    for tag in ("table", "section", "article", "figure", "div", "tbody", "tr", "svg", "ul"):
        assert len(page.all(tag)) == html.count(f"</{tag}>"), tag


def test_queries_are_ordered_by_change_and_drawn_for_every_run(html: str) -> None:
    page = Page(html)
    order = page.data("data")
    assert [row["size"] for row in order] == sorted((r["size"] for r in order), reverse=True)
    kinds = {row["text"]: row["kind"] for row in order}
    assert kinds["where can I sleep?"] == "lost" and kinds["the red chair"] == "gained"
    assert kinds["the toilet"] == "gained"  # Its false mask is gone.
    assert kinds["the furniture on the right"] == "same"
    cells = page.row("the toilet")
    assert cells[1:4] == ["false mask", "no mask", "▲ +100.0"]
    assert len(page.all("article")) == 4 and len(page.all("img")) == 3 * 4


def test_pictures_tell_right_wrong_and_missed(html: str) -> None:
    def colors(alt: str) -> set[tuple[int, int, int]]:
        (source,) = [str(a["src"]) for a in Page(html).all("img") if a["alt"] == alt]
        picture = Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).convert("RGB")
        pixels = np.asarray(picture).reshape(-1, 3).astype(int)
        known = {BOTH, ONLY, MISSED}
        # Shading darkens a colour by up to 28 %.
        return {c for c in known if (np.abs(pixels - c).max(1) < 68).sum() > 10}

    # The bed itself is bluish, so of its pictures only green and orange tell.
    assert colors("Run 1 for: where can I sleep?") - {MISSED} == {BOTH}
    assert colors("Run 2 for: where can I sleep?") - {MISSED} == set()
    assert colors("Run 1 for: the red chair") == set()
    assert colors("Run 2 for: the red chair") - {MISSED} == {BOTH}
    assert colors("Truth for: the red chair") == {MISSED}  # By run 1.
    assert colors("Run 1 for: the toilet") - {MISSED} == {ONLY}


def test_the_budget_of_pictures_is_shared_by_gained_and_lost() -> None:
    order = Page(run(tiny_inputs(), TWO).html).data("data")
    page = Page(run(tiny_inputs(), TWO).html)
    drawn = [order[int(str(a["data-row"]))]["kind"] for a in page.all("article")]
    assert sorted(drawn) == ["gained", "lost"]

    def never(wanted: Collection[str]) -> Iterator[ComparedScene]:
        raise AssertionError("no scene is read for no picture")

    page = Page(run(replace(tiny_inputs(), scenes=never), NONE).html)
    assert not page.all("article") and "0 of 5 queries have pictures" in page.text


def test_a_scan_whose_masks_are_gone_has_no_pictures() -> None:
    page = Page(run(replace(tiny_inputs(), scenes=lambda wanted: []), SMALL).html)
    assert not page.all("img") and page.row("the toilet")[3] == "▲ +100.0"


def test_labels_seen_are_announced() -> None:
    inputs = tiny_inputs()
    assert "label-free" not in Page(run(inputs, NONE).html).text
    second = replace(inputs.runs[1], warnings=("its student was trained on ground truth.",))
    text = Page(run(replace(inputs, runs=[inputs.runs[0], second]), NONE).html).text
    assert "Run 2: its student was trained on ground truth." in text


def test_of_many_differing_inputs_some_are_shown_and_the_rest_counted() -> None:
    many = [Setting(f"input {k}", ("a", "b")) for k in range(1, 46)]
    page = Page(run(replace(tiny_inputs(), outside=many), NONE).html)
    assert [row[0] for row in page.rows if row and row[0].startswith("input")][-1] == "input 40"
    assert "45 differ" in page.text and "... and 5 more" in page.text
    bare = Page(run(replace(tiny_inputs(), settings=[]), NONE).html)
    assert "Their configs do not differ." in bare.text and "from outside" not in bare.text


def test_three_runs_are_each_set_against_the_first() -> None:
    inputs = tiny_inputs()
    page = Page(run(replace(inputs, runs=[*inputs.runs, inputs.runs[0]]), NONE).html)
    assert len(page.all("svg")) == 4
    assert [row[3] for row in page.rows if row and row[0] == "mIoU"] == ["+20.0", "0.0"]


def test_too_few_and_too_many_runs_are_refused() -> None:
    inputs = tiny_inputs()
    for runs in (inputs.runs[:1], list(inputs.runs) * 4):
        with pytest.raises(UserError, match=f"expected 2 to 6 runs, found {len(runs)}"):
            run(replace(inputs, runs=runs), NONE)


def test_changes_by_hand() -> None:
    one = rows([(2, 4), (0, 0), (1, 4), (2, 2)])
    two = rows([(3, 4), (0, 3), (1, 4), (2, 2)])
    found = changed_most(
        shared_queries([RunAnswers("a", one, {}), RunAnswers("b", two, {})]), "student"
    )
    assert [(q.rows[0].prompt_id, q.largest) for q in found] == [
        ("q1", -1),  # A mask where nothing is.
        ("q0", 0.25),
        ("q2", 0),
        ("q3", 0),
    ]
    three = [RunAnswers("a", one, {}), RunAnswers("b", one, {}), RunAnswers("c", two, {})]
    first, *_ = changed_most(shared_queries(three), "student")
    assert first.ious == (1, 1, 0) and first.changes == (0, -1)


def test_histogram_by_hand_and_mirrored() -> None:
    changes = np.array([0, 0.04, -0.04, 0.06, -1, 1, 1])
    chart = changes_histogram(changes, ("run 1", "run 2"))
    assert [c.count for c in chart.columns] == [1, *[0] * 9, 3, 1, *[0] * 8, 2]
    assert [c.kind for c in chart.columns] == ["lost"] * 10 + ["same"] + ["gained"] * 10
    assert chart.columns[10].height == chart.bottom - chart.top
    assert chart.columns[20].height == pytest.approx(chart.columns[10].height * 2 / 3, abs=0.1)
    assert "4 queries gained, 2 lost, 1 as before" in chart.title
    assert [tick.label for tick in chart.x_ticks] == ["−100", "−50", "0", "+50", "+100"]
    halves = np.array([0.05, 0.15, 0.25, -0.35])
    there, back = (changes_histogram(c, ("a", "b")).columns for c in (halves, -halves))
    assert [c.count for c in there] == [c.count for c in back][::-1]


def test_scatter_by_hand() -> None:
    names = ("run 1", "run 2")
    chart = scatter(np.array([0, 0.5, 1]), np.array([1, 0.5, 0]), ["a", "b", "c"], names)
    assert [mark.kind for mark in chart.marks] == ["gained", "same", "lost"]
    assert chart.right - chart.left == chart.bottom - chart.top
    starts = [list(map(float, m.path[1:].split("h")[0].split("a")[0].split())) for m in chart.marks]
    # Triangles begin at their lower or upper left corner, circles at their left.
    middle = (chart.left + chart.right) / 2, (chart.top + chart.bottom) / 2
    assert starts[0] == [chart.left - 4.5, chart.top + 4.5]
    assert starts[1] == [middle[0] - 4.5, middle[1]]
    assert starts[2] == [chart.right - 4.5, chart.bottom - 4.5]
    assert chart.marks[0].label == "a: 0 to 100 (+100)"
    assert kind_of(-1e-9) == "lost"


def test_numbers_in_words() -> None:
    assert [points(x) for x in (0.1234, -0.1234, 0.0001, -0.0001, 0)] == [
        "+12.3",
        "−12.3",
        "0.0",
        "0.0",
        "0.0",
    ]
    assert [chance(x) for x in (None, 1.0, 0.0312, 0.0004)] == ["–", "1.000", "0.031", "< 0.001"]
