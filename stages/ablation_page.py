"""What the page of results shows of an ablation: its table, charts and rows by type of query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.ablation_charts import BarChart, LineCharts, arm_bars, line_panels

_CURVE_ARMS = ("B", "E", "F", "FE", "G", "H")
_TYPES = ("referring", "colour", "implicit", "spatial", "multiple", "absent")
_RATIOS = {
    "system_over_B_miou": "System over B, mIoU",
    "system_over_B_acc25": "System over B, Acc@0.25",
    "system_over_B_acc50": "System over B, Acc@0.50",
    "system_over_B+_miou": "System over B+, mIoU",
    "closed_gap_miou": "Share of the way from B to H, mIoU",
    "system_at_25_false_masks_over_B_miou": "System over B, mIoU, at 25 % false masks or fewer",
    "C_over_B_miou": "C over B, mIoU",
    "D_over_C_miou": "D over C, mIoU",
    "E_over_D_miou": "E over D, mIoU",
    "F_over_E_miou": "F over E, mIoU",
    "G_over_F_miou": "G over F, mIoU",
}


@dataclass(frozen=True)
class AblationSection:
    """The section's content: ``content`` is ``ablation.json``'s, ``types`` its types in order.

    ``ratios`` are (name, value) pairs; the curve is None where no arm has one.
    """

    content: Mapping[str, Any]
    types: tuple[str, ...]
    ratios: tuple[tuple[str, float], ...]
    bars: BarChart
    curve: LineCharts | None


def ablation_section(content: Mapping[str, Any]) -> AblationSection:
    """The section from the content of ``ablation.json``."""
    types = sorted(content["by_type"], key=lambda t: (_TYPES.index(t) if t in _TYPES else 99, t))
    title = "mIoU of each arm in percent, with 95 % intervals over queries"
    told = tuple(
        (name, content["ratios"][key]) for key, name in _RATIOS.items() if key in content["ratios"]
    )
    return AblationSection(
        content,
        tuple(types),
        told,
        arm_bars(content["arms"], "miou", title),
        _curve(content["absent_curve"]),
    )


def _curve(points: Sequence[Mapping[str, Any]]) -> LineCharts | None:
    lines = {
        arm: [(p["false_masks"], p["miou"]) for p in points if p["arm"] == arm]
        for arm in _CURVE_ARMS
    }
    if not any(lines.values()):
        return None
    title = "mIoU on objects that are there against the share of absent ones answered with a mask"
    known = {arm: line[::-1] for arm, line in lines.items() if line}
    return line_panels([("", known)], title, "absent objects answered with a mask, %", "mIoU, %")
