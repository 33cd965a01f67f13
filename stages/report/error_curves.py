"""Stage ``error_curves``: what arms lose as an oracle teacher makes more of one kind of error."""

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
    """Arms' headline figures at one setting, as in ``ablation.json``, and which queries they are.

    Raises ValueError where there is no query.
    """
    rows = queries_of(arms)
    headline = headline_of(rows)
    found = {arm.name: arm_metrics(arm, headline) for arm in arms}
    return {"arms": found, "queries": describe_queries(rows, headline)}


def run(curves: Mapping[str, Mapping[float, Mapping[str, Any]]]) -> dict[str, Any]:
    """The content of ``error_curves.json`` from figures by error and rate.

    ``errors`` holds, for each error, a row per rate with each arm's figures; ``kept`` is the
    share of its mIoU at the lowest rate that an arm still has, None where that is 0.
    """
    if not curves or not all(curves.values()):
        raise ValueError("expected at least one kind of error, each at one rate or more")
    some = next(iter(next(iter(curves.values())).values()))
    errors: dict[str, list[dict[str, Any]]] = {}
    for error, by_rate in curves.items():
        first = by_rate[min(by_rate)]["arms"]
        errors[error] = [
            {
                "rate": rate,
                "arms": {
                    name: {
                        **{figure: arm[figure] for figure in ARM_METRICS},
                        "kept": _kept(arm["miou"]["mean"], first[name]["miou"]["mean"]),
                    }
                    for name, arm in by_rate[rate]["arms"].items()
                },
            }
            for rate in sorted(by_rate)
        ]
    return {
        "arms": {name: arm["title"] for name, arm in some["arms"].items()},
        "errors": errors,
        "convention": "strict",
        "queries": some["queries"],
    }


def _kept(miou: float | None, first: float | None) -> float | None:
    return miou / first if first and miou is not None else None


def chart(content: Mapping[str, Any]) -> str:
    """A panel for each error, a line for each arm, as an SVG file."""
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
