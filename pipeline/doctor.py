"""Doctor: what is wrong with a scene set's files, found in minutes instead of after hours."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from data.errors import DataError, UserError
from data.types import SPLITS
from pipeline.plan import Plan

if TYPE_CHECKING:
    from data.types import GroundTruth
    from stages.scene.check_scan import ScanFacts

_MANY_ABSENT = 0.5
_LEAST_SEEN = 0.05
# Above chance: 0.37 to 0.87 on ten rendered rooms; with poses of other images -0.07 to 0.13.
_LEAST_AGREEMENT = 0.15
_VIEWS = 6


@dataclass
class Diagnosis:
    """What was found: facts for the page, and findings, each with how to mend it.

    ``notes`` are what readers tell in warnings: frames left out, files that are not there.
    """

    splits: dict[str, int] = field(default_factory=dict)
    queries: list[str] = field(default_factory=list)
    facts: list[ScanFacts] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def found(self, error: UserError) -> None:
        """Take up an error, once."""
        text = " ".join(str(error).split())
        if text not in self.findings:
            self.findings.append(text)


@contextmanager
def _warnings_to(notes: list[str]) -> Iterator[None]:
    """Collect what is logged as a warning meanwhile."""

    class _Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = " ".join(record.getMessage().split())
            if text not in notes:
                notes.append(text)

    collector, logger = _Collector(logging.WARNING), logging.getLogger()
    logger.addHandler(collector)
    try:
        yield
    finally:
        logger.removeHandler(collector)


def diagnose(plan: Plan, scenes: Sequence[str], told: logging.Logger) -> Diagnosis:
    """Check splits, queries and the teacher of a plan, and ``scenes`` of it whole.

    Errors in the scene set itself (ConfigError) are raised; everything else is a finding.
    ``told`` is informed of every scene that is looked at.
    """
    diagnosis = Diagnosis()
    with _warnings_to(diagnosis.notes):
        diagnosis.splits = {split: len(plan.scenes(split)) for split in SPLITS}
        _check_annotations(plan, diagnosis)
        _check_queries(plan, diagnosis)
        for number, scene in enumerate(scenes, start=1):
            told.info("scene %d of %d: %s", number, len(scenes), scene)
            _check_scene(plan, scene, diagnosis)
        try:
            plan.teacher(plan.scenes()[0])
        except UserError as error:
            diagnosis.found(error)
    return diagnosis


def _check_annotations(plan: Plan, diagnosis: Diagnosis) -> None:
    """Of every scene of the set, what names its objects: its folder and annotation are there."""
    for scene in plan.scenes():
        try:
            if not plan.reader.read_group_names(plan.root, scene) and plan.scene_set.has_truth:
                diagnosis.findings.append(
                    f"{scene}: its annotation names no object. Take it out of the split, or "
                    "download its annotation again."
                )
        except DataError as error:
            diagnosis.found(error)


def _check_queries(plan: Plan, diagnosis: Diagnosis) -> None:
    """Queries as PreparePrompts reads them: formats, scenes, id spaces, lacking objects."""
    from pipeline.prompt_jobs import prepared_prompts

    try:
        prepared = prepared_prompts(plan)
    except DataError as error:
        diagnosis.found(error)
        return
    for split, prompts in prepared.prompts.items():
        diagnosis.queries.append(f"{len(prompts)} of {split}")
    if not plan.scene_set.has_truth:
        diagnosis.queries.append("no truth: nothing will be measured")
        return
    absent = [truth for truth in prepared.truths if not truth.object_ids]
    diagnosis.queries.append(f"ids are {prepared.id_space}")
    diagnosis.queries.append(f"{len(absent)} about what is absent")
    if len(absent) > _MANY_ABSENT * len(prepared.truths):
        diagnosis.findings.append(
            f"{len(absent)} of {len(prepared.truths)} queries have no object in their scene: "
            "ground truth would be empty. Check that queries and scans are of the same version."
        )


def _check_scene(plan: Plan, scene: str, diagnosis: Diagnosis) -> None:
    """Read a scene whole, and look whether its parts belong together."""
    from stages.scene import check_scan as stage

    cfg = plan.experiment
    try:
        scan = plan.reader.read_scan(plan.root, scene, cfg.prepare.camera)
        facts = stage.run(scan, cfg.link, _VIEWS)
    except DataError as error:
        diagnosis.found(error)
        return
    diagnosis.facts.append(facts)
    empty = [name for name, has_points in _objects(scan.truth) if not has_points]
    if empty:
        shown = ", ".join(empty[:5])
        diagnosis.findings.append(
            f"{scene}: {len(empty)} objects have no point ({shown}): ground truth of queries "
            "about them is empty. Check that mesh and annotation are of the same version."
        )
    if facts.blind or facts.seen_share < _LEAST_SEEN:
        diagnosis.findings.append(
            f"{scene}: {len(facts.blind)} of {facts.checked} views see next to nothing of the "
            f"mesh ({', '.join(facts.blind[:3])}), {facts.seen_share:.0%} of it is seen. Check "
            "that poses are camera-to-world or world-to-camera as the format says, in metres, "
            "and of this mesh."
        )
    if facts.agreement is not None and facts.agreement < (facts.chance or 0) + _LEAST_AGREEMENT:
        diagnosis.findings.append(
            f"{scene}: the images' colours are not the mesh's at the same points (correlation "
            f"{facts.agreement:.2f}, with images of other views {facts.chance or 0:.2f}). Check "
            "that images, poses and intrinsics are of this scan and of one size."
        )


def _objects(truth: GroundTruth) -> Iterator[tuple[str, bool]]:
    """Names of a scene's objects, and whether each has a point."""
    for object_id, label in zip(truth.object_ids, truth.labels, strict=True):
        yield f"{object_id} {label}", bool(len(truth.points_of(object_id)))
