"""Charts of ablations and error curves by hand, and their section of the report."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from typing import Any

import pytest

from stages.configs import ReportConfig
from stages.evaluation import ablation
from stages.report import error_curves
from stages.report.charts import arm_bars, drawn, line_panels
from stages.report.report import run
from tests.stages.evaluation.test_ablation import FIRST, SECOND, arm, row
from tests.stages.report.test_report import make_inputs
from tests.support.page_parser import Page

SMALL = ReportConfig(max_pictures=0)


def content() -> dict[str, Any]:
    weak = [row("a", (1, 4), score=0.5, wording="seen"), *FIRST[1:]]
    return ablation.run([arm("B", weak), arm("<F>", FIRST, SECOND), arm("FE", FIRST)], "FE")


@pytest.fixture(scope="module")
def html() -> str:
    return run(replace(make_inputs(), ablation=content()), SMALL).html


def test_the_page_shows_the_ablation_only_where_there_is_one(html: str) -> None:
    assert 'id="ablation"' in html and 'href="#ablation"' in html
    plain = run(make_inputs(), SMALL).html
    assert "ablation" not in plain.split("</style>")[1]


def test_the_section_holds_figures_rows_by_type_and_curve(html: str) -> None:
    section = html[html.index('<section id="ablation"') :]
    page = Page(section[: section.index("</section>")])
    text = " ".join(page.text.split())
    assert "3 of 6 queries" in text and "means of 2 seeds" in text
    assert "<F> arm <F> 50.0 ± 0.0" in text
    assert "referring colour implicit spatial absent, false masks" in text
    assert "System over B, mIoU 1.00" in text
    assert "Seen Held out" in text
    assert len(page.all("svg")) == 2 and len(page.all("table")) == 4
    assert len(page.all("polyline")) == 2  # the curve is of B and FE; <F> is none of its arms
    for start in ("<svg", "<svg"):
        at = section.index(start)
        ElementTree.fromstring(section[at : section.index("</svg>", at) + 6])
        section = section[at + 6 :]


def test_the_page_keeps_to_its_policy_with_charts_in_it(html: str) -> None:
    page = Page(html)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert not [a for _, attrs in page.tags for a in attrs if a == "style" or a.startswith("on")]
    assert html.count("<style>") == 1 and "http://" not in html


def test_bars_by_hand() -> None:
    figure = {"mean": 0.5, "std": 0.1, "ci95": [0.4, 0.8]}
    nothing = {"mean": None, "std": None, "ci95": [None, None]}
    arms = {"B": {"title": "plain", "miou": figure}, "I": {"title": "none", "miou": nothing}}
    chart = arm_bars(arms, "miou", "mIoU")
    (bar,) = chart.bars
    per_unit = (chart.right - chart.left) / 0.8
    assert (bar.label, bar.value) == ("B: plain", "50.0")
    assert bar.end == pytest.approx(chart.left + 0.5 * per_unit, abs=0.1)
    assert bar.low == pytest.approx(chart.left + 0.4 * per_unit, abs=0.1)
    assert bar.high == pytest.approx(chart.right, abs=0.1)
    assert [tick.label for tick in chart.ticks] == ["0", "20", "40", "60", "80"]
    assert arm_bars({}, "miou", "none").bars == ()


def test_lines_by_hand_and_names_that_keep_apart() -> None:
    lines = {"E": [(0.0, 0.4), (0.5, 0.2)], "F": [(0.0, 0.4), (0.5, 0.2)]}
    chart = line_panels([("one", lines), ("two", {"F": [(0.5, 0.0)]})], "t", "rate", "mIoU")
    first, second = chart.panels
    assert first.right < second.left < second.right < chart.width
    assert first.lines[0].dots == ((first.left, first.top), (first.right, 133.0))
    assert abs(first.lines[0].name_y - first.lines[1].name_y) >= 12
    assert [line.number for line in second.lines] == [1]
    assert second.lines[0].dots == ((second.right, second.bottom),)


def test_a_chart_of_its_own_is_whole_for_light_and_dark() -> None:
    for chart in (
        arm_bars(content()["arms"], "miou", 'a "title" & <more>'),
        line_panels([("p", {"B": [(0.0, 0.1)]})], "t", "x", "y"),
    ):
        svg = drawn(chart)
        root = ElementTree.fromstring(svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.attrib["aria-label"] == chart.title
        assert "prefers-color-scheme: dark" in svg


def test_error_curves_by_hand() -> None:
    def at(share: int) -> dict[str, Any]:
        return error_curves.setting_metrics([arm("B", [row("a", (share, 4))])])

    made = error_curves.run({"miss": {0.3: at(1), 0.0: at(4)}, "ragged": {0.0: at(0)}})
    assert [point["rate"] for point in made["errors"]["miss"]] == [0.0, 0.3]
    last = made["errors"]["miss"][1]["arms"]["B"]
    assert last["miou"]["mean"] == pytest.approx(0.25, abs=1e-6)
    assert last["kept"] == pytest.approx(0.25, abs=1e-6)
    assert made["errors"]["ragged"][0]["arms"]["B"]["kept"] is None
    assert made["arms"] == {"B": "arm B"} and made["queries"].startswith("1 of 1")
    svg = error_curves.chart(made)
    assert "missed objects" in svg and "ragged borders" in svg
    ElementTree.fromstring(svg)
    with pytest.raises(ValueError, match="one kind of error"):
        error_curves.run({})
