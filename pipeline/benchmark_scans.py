"""What official figures need beyond masks and truth: whose queries they are, and scans to box."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from pipeline.plan import Plan

if TYPE_CHECKING:
    from data.types import Array
    from stages.evaluation.benchmarks import Asked
    from stages.evaluation.evaluate import EvaluationScene
    from stages.evaluation.metrics import BoxScan


def asked_by(plan: Plan) -> Asked:
    """Whose queries the plan's scene set asks."""
    from stages.evaluation.benchmarks import Asked

    return TypeAdapter(Asked).validate_python(plan.scene_set.asked)


def with_scans(plan: Plan, scenes: Iterable[EvaluationScene]) -> Iterator[EvaluationScene]:
    """The scenes, each with its points where the benchmark's convention scores boxes.

    Scenes are taken one at a time. Raises DataError for a damaged ``axisAlignment``.
    """
    needed = bool(asked_by(plan).convention.boxes)
    for scene in scenes:
        yield replace(scene, scan=_scan(plan, scene.scene_id)) if needed else scene


def _scan(plan: Plan, scene_id: str) -> BoxScan:
    from data.artifacts.scene import read_scene
    from stages.evaluation.metrics import BoxScan

    scene = read_scene(plan.prepare(scene_id).folder)
    return BoxScan.make(scene.cloud.points, scene.triangles, _alignment(plan, scene_id))


def _alignment(plan: Plan, scene_id: str) -> Array | None:
    """What aligns a scan with the axes, which ScanNet alone tells; None elsewhere."""
    if plan.scene_set.asked["dataset"] != "scannet":
        return None
    from data.readers.scannet import read_axis_alignment

    return read_axis_alignment(plan.root, scene_id)
