"""Charts of the report, and durations in words."""

from __future__ import annotations

from typing import get_args

import pytest

from data.artifacts.evaluation import QueryRow, Score, TargetCount
from stages.report.charts import BINS, binned, iou_histograms, line_chart
from stages.report.html import duration
from stages.report.page import certainty_panels


def row(iou: float, count: TargetCount) -> QueryRow:
    score = Score(1, 2, iou, 3, False)
    return QueryRow("p", "s", "t", "task", count, 4, {"student": score})


def test_values_fall_into_their_tenth() -> None:
    assert binned([0, 0.05, 0.0999, 0.1, 0.5, 0.9, 1.0]) == [3, 1, 0, 0, 0, 1, 0, 0, 0, 2]
    # 3 of 10 points in float32, divided by 10 + 1e-6.
    assert binned([0.29999998, 0.7 - 1e-7]) == [0, 0, 0, 1, 0, 0, 0, 1, 0, 0]


def test_absent_objects_are_left_out_and_bars_are_to_scale() -> None:
    assert set(get_args(TargetCount)) == {"zero", "single", "multiple"}
    rows = [row(0, "zero"), row(0.25, "single"), row(0.25, "multiple"), row(1, "single")]
    (chart,) = iou_histograms(rows, {"student": "Student"})
    assert (chart.total, chart.mean) == (3, 0.5)
    tall, short = chart.columns[2], chart.columns[9]
    assert (tall.count, short.count) == (2, 1) and tall.height == pytest.approx(2 * short.height)
    assert tall.y + tall.height == pytest.approx(chart.bottom, abs=0.11)
    assert short.x + short.width < chart.right and len(chart.columns) == BINS
    assert iou_histograms([row(0, "zero")], {"student": "Student"}) == []


def test_certainty_is_plotted_against_what_is_true() -> None:
    bins = [(0.05, 0.0, 9), (0.5, 0.25, 2), (0.95, 1.0, 3)]
    told = {"student": {"presence": {"bins": bins}, "quality": {"bins": []}}}
    plotted = certainty_panels(told)
    assert plotted is not None
    there, quality = plotted.panels
    assert [line.name for line in there.lines] == ["ideal", "student"]
    # A bin of two answers is left out; the others lie where the ideal line would have them, if they
    # were right: the last a little above it.
    ideal, student = there.lines
    assert len(student.dots) == 2 and ideal.dots[0] == (there.left, there.bottom)
    wide = there.left + 0.95 * (there.right - there.left)
    assert student.dots[1][0] == pytest.approx(wide) and student.dots[1][1] == there.top
    assert [line.name for line in quality.lines] == ["ideal"]
    assert certainty_panels({}) is None


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (119.4, "119 s"), (207, "3 min 27 s"), (7500, "2 h 05 min")],
)
def test_durations_in_words(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_line_chart_by_hand() -> None:
    chart = line_chart([(1, 4.0), (2, 2.0), (3, 0.0)])
    assert chart is not None
    assert chart.points == "56.0,12.0 342.0,92.0 628.0,172.0"
    assert [tick.label for tick in chart.x_ticks] == ["1", "3"]
    assert [tick.label for tick in chart.y_ticks] == ["0", "2", "4"]
    assert line_chart([(1, 4.0)]) is None
    flat = line_chart([(0, 0.0), (0, 0.0)])
    assert flat is not None and "nan" not in flat.points
    long = line_chart([(i, 1.0 / (i + 1)) for i in range(5000)])
    assert long is not None and len(long.points.split()) <= 601
