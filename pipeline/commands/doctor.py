"""Command doctor: check a scene set's files before a long run."""

from __future__ import annotations

import json
import logging
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from data.errors import ConfigError, DataError, Failure, UserError
from data.types import SPLITS
from pipeline.commands.command import Command, count
from pipeline.plan import Plan, load_plan
from pipeline.steps import STEPS, Step
from pipeline.steps.scans import prepared_prompts

if TYPE_CHECKING:
    from data.types import GroundTruth
    from stages.scene.check_scan import ScanFacts


# Bytes of a compressed depth map for each pixel, and of a link, measured on rendered rooms.
_DEPTH_BYTES, _LINK_BYTES = 0.65, 12
_MOST_RECORDS = 200


def _add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--scene-set",
        required=True,
        help="name of a file in configs/scene_sets, or path of a YAML file",
    )
    add(
        "--config", default="", help="name of a file in configs/experiments, or path of a YAML file"
    )
    add("--overrides", default="", help="config keys as in the run: key=value,key=value")
    add(
        "--scene",
        action="append",
        default=[],
        help="a scene to read in full; may be given several times",
    )
    add(
        "--scenes",
        type=count,
        default=5,
        metavar="N",
        help="number of scenes to read in full (default: 5)",
    )


def _examine(options: Namespace) -> None:

    plan = load_plan(options.scene_set, options.config, options.overrides)
    if plan.scene_set.generated:
        raise ConfigError(
            f"--scene-set: expected a set with data_root, found {options.scene_set}, whose rooms "
            "are generated and need no check"
        )
    for scene in options.scene:
        plan.split_of(scene)
    diagnosis = diagnose(
        plan, options.scene or _spread(plan.scenes(), options.scenes), _progress_logger()
    )
    if plan.teacher_warning:
        diagnosis.notes.append(plan.teacher_warning)
    print("\n".join(_page(plan, diagnosis)))
    if diagnosis.findings:
        raise Failure(f"{len(diagnosis.findings)} findings: correct them before a long run")


def _progress_logger() -> logging.Logger:
    logger = logging.getLogger("pipeline.doctor")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler(sys.stderr))
    return logger


def _spread(scenes: tuple[str, ...], number: int) -> list[str]:
    number = min(number, len(scenes))
    return [scenes[k * len(scenes) // number] for k in range(number)]


def _page(plan: Plan, diagnosis: Diagnosis) -> Iterator[str]:
    scene_set = plan.scene_set
    splits = ", ".join(f"{name} {size}" for name, size in diagnosis.splits.items() if size)
    yield f"{scene_set.name}: reader {scene_set.reader}, {plan.root}"
    yield f"scenes: {splits}; {len(diagnosis.facts)} read in full; annotations of all scenes read"
    yield f"queries: {', '.join(diagnosis.queries) or 'none could be read'}"
    if diagnosis.facts:
        yield ""
        heads = f"{'scene':<24}{'points':>10}{'views':>7}{'seen':>7}"
        yield f"{heads}{'links per view':>16}{'colours':>9}"
        yield from (_fact(fact) for fact in diagnosis.facts)
        checked = diagnosis.facts[0].checked
        yield f"seen: share of points in {checked} views; colours: correlation of mesh and images"
        yield ""
        yield from _needs(plan, diagnosis.facts)
    for title, texts in (("notes", diagnosis.notes), ("findings", diagnosis.findings)):
        yield ""
        yield f"{title}: {len(texts) or 'none'}"
        yield from (f"{number}. {text}" for number, text in enumerate(texts, start=1))


def _fact(fact: ScanFacts) -> str:
    colors = "-" if fact.agreement is None else f"{fact.agreement:.2f}"
    return (
        f"{fact.scene_id:<24}{fact.num_points:>10}{fact.num_views:>7}{fact.seen_share:>7.0%}"
        f"{fact.links:>16.0f}{colors:>9}"
    )


def _needs(plan: Plan, facts: list[ScanFacts]) -> Iterator[str]:
    """Disk and time of each stage, from earlier runs, else estimated from the scenes just read."""
    scenes, cfg = len(plan.scenes()), plan.experiment.prepare
    views = mean(min(fact.num_views, cfg.max_views) for fact in facts)
    estimates: dict[str, tuple[float | None, float | None]] = {
        "prepare_scene": (
            _DEPTH_BYTES * views * mean(fact.pixels for fact in facts),
            views * mean(fact.seconds for fact in facts),
        ),
        "link_points": (_LINK_BYTES * views * mean(fact.links for fact in facts), None),
    }
    sizes = f"{'stage':<16}{'MB per scene':>13}{'GB in all':>11}"
    yield f"{sizes}{'s per scene':>13}{'h in all':>10}  from"
    for step in _scene_steps(plan):
        task = step.task_name
        recorded = _recorded(plan.output / step.stage_folder)
        size, seconds = recorded or estimates.get(step.name, (None, None))
        source = (
            "earlier runs" if recorded else "estimated" if size else _measuring_command(plan, task)
        )
        yield (
            f"{task:<16}{_number(size, 1e6):>13}{_number(size, 1e9 / scenes):>11}"
            f"{_number(seconds, 1):>13}{_number(seconds, 3600 / scenes):>10}  {source}"
        )


def _scene_steps(plan: Plan) -> list[Step]:
    """The steps that every scene passes before a student can be trained on it."""
    found, waiting = {"train_student"}, ["train_student"]
    while waiting:
        inputs = STEPS[waiting.pop()].active_inputs(plan)
        new = {each.step for each in inputs} - found
        found |= new
        waiting += new
    return [step for step in STEPS.values() if step.name in found and step.is_per_scene]


def _measuring_command(plan: Plan, task: str) -> str:
    scene = plan.scenes()[0]
    command = f"luigi --module pipeline {task} --scene-set {plan.scene_set.name} --scene {scene}"
    return f"to measure: {command}"


def _number(value: float | None, unit: float) -> str:
    return "-" if value is None else f"{value / unit:.3g}"


def _recorded(folder: Path) -> tuple[float, float] | None:
    """Mean bytes and seconds of a stage's finished artifacts of any config; None without any."""
    sizes, seconds = [], []
    for path in sorted(folder.glob("*/*/metadata.json"))[:_MOST_RECORDS]:
        try:
            content = json.loads(path.read_text())
            sizes.append(sum(entry["bytes"] for entry in content["files"].values()))
            seconds.append(float(content["wall_seconds"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return (mean(sizes), mean(seconds)) if sizes else None


DOCTOR = Command("check a scene set's files before a long run", _add_arguments, _examine)


_MANY_ABSENT = 0.5
_LEAST_SEEN = 0.05
# Above chance: 0.37 to 0.87 on ten rendered rooms; with poses of other images -0.07 to 0.13.
_LEAST_AGREEMENT = 0.15
_VIEWS = 6


@dataclass
class Diagnosis:
    """Result of the checks.

    Attributes:
        splits: number of scenes by split.
        queries: facts about the queries, as texts.
        facts: measurements of the scenes that were read in full.
        findings: faults, each with its remedy.
        notes: warnings of the readers, such as frames that are left out.
    """

    splits: dict[str, int] = field(default_factory=dict)
    queries: list[str] = field(default_factory=list)
    facts: list[ScanFacts] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, error: UserError) -> None:
        """Add an error to the findings, unless it is there already."""
        text = " ".join(str(error).split())
        if text not in self.findings:
            self.findings.append(text)


@contextmanager
def _warnings_to(notes: list[str]) -> Iterator[None]:
    """Collect the warnings that are logged in the body."""

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


def diagnose(plan: Plan, scenes: Sequence[str], logger: logging.Logger) -> Diagnosis:
    """Check splits, queries and the teacher of a plan, and read ``scenes`` in full.

    Raises ConfigError for errors in the scene set itself; other errors become findings.
    ``logger`` logs every scene that is read.
    """
    diagnosis = Diagnosis()
    with _warnings_to(diagnosis.notes):
        diagnosis.splits = {split: len(plan.scenes(split)) for split in SPLITS}
        _check_annotations(plan, diagnosis)
        _check_queries(plan, diagnosis)
        for number, scene in enumerate(scenes, start=1):
            logger.info("scene %d of %d: %s", number, len(scenes), scene)
            _check_scene(plan, scene, diagnosis)
        try:
            plan.key("run_teacher", plan.scenes()[0])
        except UserError as error:
            diagnosis.add(error)
    return diagnosis


def _check_annotations(plan: Plan, diagnosis: Diagnosis) -> None:
    """Read the object names of every scene, which shows that folder and annotation exist."""
    for scene in plan.scenes():
        try:
            if not plan.reader.read_group_names(plan.root, scene) and plan.scene_set.has_truth:
                diagnosis.findings.append(
                    f"{scene}: its annotation names no object. Take it out of the split, or "
                    "download its annotation again."
                )
        except DataError as error:
            diagnosis.add(error)


def _check_queries(plan: Plan, diagnosis: Diagnosis) -> None:
    """Read the queries as PreparePrompts does: formats, scenes, id spaces, missing objects."""

    try:
        prepared = prepared_prompts(plan.dataset, plan.experiment.prompts)
    except DataError as error:
        diagnosis.add(error)
        return
    for split, prompts in prepared.prompts.items():
        diagnosis.queries.append(f"{len(prompts)} of {split}")
    if not plan.scene_set.has_truth:
        diagnosis.queries.append("no ground truth: nothing will be measured")
        return
    absent = [truth for truth in prepared.truths if not truth.object_ids]
    diagnosis.queries.append(f"ids are {prepared.id_space}")
    diagnosis.queries.append(f"{len(absent)} about absent objects")
    if len(absent) > _MANY_ABSENT * len(prepared.truths):
        diagnosis.findings.append(
            f"{len(absent)} of {len(prepared.truths)} queries have no object in their scene: "
            "ground truth would be empty. Check that queries and scans are of the same version."
        )


def _check_scene(plan: Plan, scene: str, diagnosis: Diagnosis) -> None:
    """Read a scene in full and check that mesh, poses and images belong together."""
    from stages.scene import check_scan as stage

    cfg = plan.experiment
    try:
        scan = plan.reader.read_scan(plan.root, scene, cfg.prepare.camera)
        facts = stage.run(scan, cfg.link, _VIEWS)
    except DataError as error:
        diagnosis.add(error)
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
            f"{scene}: {len(facts.blind)} of {facts.checked} views see almost nothing of the "
            f"mesh ({', '.join(facts.blind[:3])}); {facts.seen_share:.0%} of it is seen. Check "
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
