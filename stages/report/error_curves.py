"""Stage ``error_curves``: metrics of arms against the rate of errors of an oracle teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data.artifacts.evaluation import ArmRows
from stages.evaluation.ablation import (
    ARM_METRICS,
    arm_metrics,
    describe_queries,
    headline_of,
    queries_of,
)
from stages.report.charts import drawn, line_panels

_TITLES = {
    "hallucinate": "hallucinated masks",
    "miss": "missed objects",
    "ragged": "ragged borders",
}


def setting_metrics(arms: Sequence[ArmRows]) -> dict[str, Any]:
    """Compute the headline metrics of the arms at one setting, as in ``ablation.json``.

    Raises ValueError where there is no query.
    """
    rows = queries_of(arms)
    headline = headline_of(rows)
    by_arm = {arm.name: arm_metrics(arm, headline) for arm in arms}
    return {"arms": by_arm, "queries": describe_queries(rows, headline)}


def run(curves: Mapping[str, Mapping[float, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the content of ``error_curves.json`` from the results of ``setting_metrics``.

    ``curves`` holds them by kind of error and rate. In the content, ``errors`` holds for each
    error a row per rate with each arm's metrics; ``kept`` is the arm's mIoU divided by its mIoU at
    the lowest rate, None where that is 0. Raises ValueError for no error and for an error without
    rate.
    """
    if not curves or not all(curves.values()):
        raise ValueError("expected at least one kind of error, each at one rate or more")
    first_setting = next(iter(next(iter(curves.values())).values()))
    errors: dict[str, list[dict[str, Any]]] = {}
    for error, by_rate in curves.items():
        at_lowest_rate = by_rate[min(by_rate)]["arms"]
        errors[error] = [
            {
                "rate": rate,
                "arms": {
                    name: {
                        **{figure: arm[figure] for figure in ARM_METRICS},
                        "kept": _kept(arm["miou"]["mean"], at_lowest_rate[name]["miou"]["mean"]),
                    }
                    for name, arm in by_rate[rate]["arms"].items()
                },
            }
            for rate in sorted(by_rate)
        ]
    return {
        "arms": {name: arm["title"] for name, arm in first_setting["arms"].items()},
        "errors": errors,
        "convention": "strict",
        "queries": first_setting["queries"],
    }


def _kept(miou: float | None, first: float | None) -> float | None:
    return miou / first if first and miou is not None else None


def chart(content: Mapping[str, Any]) -> str:
    """Draw a panel for each error with a line for each arm, as the text of an SVG file."""
    panels = []
    for error, rows in content["errors"].items():
        lines = {
            name: [
                (row["rate"], row["arms"][name]["miou"]["mean"])
                for row in rows
                if row["arms"][name]["miou"]["mean"] is not None
            ]
            for name in content["arms"]
        }
        panels.append((_TITLES.get(error, error), lines))
    title = "mIoU of each arm against the rate of each error of an oracle teacher"
    return drawn(line_panels(panels, title, "rate, %", "mIoU, %"))
