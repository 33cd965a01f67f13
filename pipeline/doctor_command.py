"""``python -m pipeline doctor``: one page on a scene set's files, before hours are spent."""

from __future__ import annotations

import json
import logging
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from pipeline.command import Command, Failure, count

if TYPE_CHECKING:
    from pipeline.doctor import Diagnosis
    from pipeline.plan import Plan
    from stages.scene.check_scan import ScanFacts

_SCENE_STAGES = {
    "prepare_scene": "PrepareScene",
    "link_points": "LinkPoints",
    "run_teacher": "RunTeacher",
    "fuse_masks": "FuseMasks",
}
# Bytes of a compressed depth map a pixel, and of a link: measured on rendered rooms.
_DEPTH_BYTES, _LINK_BYTES = 0.65, 12
_MOST_RECORDS = 200


def _add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--scene-set", required=True, help="a file in configs/scene_sets, or the path of one")
    add("--config", default="", help="experiment file, as it will be run")
    add("--overrides", default="", help="key=value,key=value, as they will be run")
    add("--scene", action="append", default=[], help="read whole; may be given several times")
    add("--scenes", type=count, default=5, metavar="N", help="scenes read whole; default: 5")


def _examine(options: Namespace) -> None:
    from data.errors import ConfigError
    from pipeline.doctor import diagnose
    from pipeline.plan import load_plan

    plan = load_plan(options.scene_set, options.config, options.overrides)
    if plan.scene_set.generated:
        raise ConfigError(
            f"--scene-set: {options.scene_set} is made by GenerateRooms; the doctor is for data of "
            "your own. Name a set with data_root."
        )
    for scene in options.scene:
        plan.split_of(scene)
    diagnosis = diagnose(plan, options.scene or _spread(plan.scenes(), options.scenes), _teller())
    print("\n".join(_page(plan, diagnosis)))
    if diagnosis.findings:
        raise Failure(f"{len(diagnosis.findings)} findings: mend them before a long run")


def _teller() -> logging.Logger:
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
    yield f"scenes: {splits}; {len(diagnosis.facts)} read whole, the annotation of all"
    yield f"queries: {', '.join(diagnosis.queries) or 'none could be read'}"
    if diagnosis.facts:
        yield ""
        heads = f"{'scene':<24}{'points':>10}{'views':>7}{'seen':>7}"
        yield f"{heads}{'links a view':>14}{'colours':>9}"
        yield from (_fact(fact) for fact in diagnosis.facts)
        checked = diagnosis.facts[0].checked
        yield f"seen: by {checked} of the views; colours: correlation with those of the images"
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
        f"{fact.links:>14.0f}{colors:>9}"
    )


def _needs(plan: Plan, facts: list[ScanFacts]) -> Iterator[str]:
    """Disk and time a stage: from artifacts of earlier runs, else from what was just measured."""
    scenes, cfg = len(plan.scenes()), plan.experiment.prepare
    views = mean(min(fact.num_views, cfg.max_views) for fact in facts)
    guesses: dict[str, tuple[float | None, float | None]] = {
        "prepare_scene": (
            _DEPTH_BYTES * views * mean(fact.pixels for fact in facts),
            views * mean(fact.seconds for fact in facts),
        ),
        "link_points": (_LINK_BYTES * views * mean(fact.links for fact in facts), None),
    }
    yield f"{'stage':<16}{'MB a scene':>12}{'GB in all':>12}{'s a scene':>12}{'h in all':>10}  from"
    for stage, task in _SCENE_STAGES.items():
        recorded = _recorded(plan.output / stage)
        size, seconds = recorded or guesses.get(stage, (None, None))
        source = "earlier runs" if recorded else "estimated" if size else _to_know(plan, task)
        yield (
            f"{task:<16}{_number(size, 1e6):>12}{_number(size, 1e9 / scenes):>12}"
            f"{_number(seconds, 1):>12}{_number(seconds, 3600 / scenes):>10}  {source}"
        )


def _to_know(plan: Plan, task: str) -> str:
    scene = plan.scenes()[0]
    return (
        f"run one: luigi --module pipeline {task} --scene-set {plan.scene_set.name} --scene {scene}"
    )


def _number(value: float | None, unit: float) -> str:
    return "-" if value is None else f"{value / unit:.3g}"


def _recorded(folder: Path) -> tuple[float, float] | None:
    """Mean bytes and seconds of a stage's finished artifacts, of any config; None without any."""
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
