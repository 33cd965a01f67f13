"""How often a finished run answers sentences to which its rooms have no answer, and keeps others.

    python -m benchmarks.nothing_fits --scene-set demo

The sentences are those of ``data/rooms/exam.yaml``: absent things, other needs, remarks that are no
search, letters, negations and invented words in every room, and sentences by another hand for each
kind of thing in the rooms that hold it. They are asked of the student by words alone, and of the
teacher, whose masks are fused as in the run. The exam's sentences are in no training; settings are
chosen on others, ``--sentences tuning``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.artifacts.evaluation import SOURCES
from data.artifacts.soft_masks import PseudoLabels
from data.artifacts.teacher import FILE, TeacherCache, TeacherWriter
from data.errors import UserError
from data.rooms.teacher_sentences import load_exam
from data.types import Array, GroundTruth, Prompt, Scene
from pipeline.commands.query import check_student, make_engine
from pipeline.plan import Plan, load_plan
from stages.evaluation.calibration import calibration_error
from stages.evaluation.metrics import auc
from stages.fusion import fuse_masks
from stages.student import predict_masks
from stages.teacher import run_teacher
from stages.teacher.make_teacher import make_teacher

PRESENT = "present"
_WORDS, _LABELS, _TOGETHER = "by words alone", "labels", "labels and student"


@dataclass(frozen=True)
class Asked:
    """A sentence and its answer: ``group`` is one of the exam's, or ``PRESENT``.

    ``num_points`` are those of the answer; ``iou`` is that with all objects of the kind, 0 for
    sentences without answer; ``presence`` and ``quality`` are the answer's.
    """

    source: str
    scene: str
    group: str
    text: str
    num_points: int
    iou: float
    presence: float
    quality: float


@dataclass(frozen=True, eq=False)
class Room:
    """A room's scan and its sentences: texts by group, and the true mask of each present kind."""

    scene: Scene
    sentences: tuple[tuple[str, str, Array | None], ...]

    @classmethod
    def of(cls, scene: Scene, truth: GroundTruth, sentences: str) -> Room:
        """Choose the sentences of a room from the file of that name."""
        exam = load_exam(sentences)
        rows: list[tuple[str, str, Array | None]] = [
            (group, text, None) for group, texts in exam.nothing.items() for text in texts
        ]
        for kind, texts in exam.present.items():
            ids = [i for i, label in zip(truth.object_ids, truth.labels) if label == kind]
            if ids:
                rows += [(PRESENT, text, truth.mask(ids)) for text in texts]
        return cls(scene, tuple(rows))

    def answered(self, source: str, masks: Sequence[Array], sure: Array) -> Iterator[Asked]:
        """Score the answers (N,) bool of all sentences; ``sure`` (Q, 2) are presence, quality."""
        for sentence, mask, certain in zip(self.sentences, masks, sure.tolist(), strict=True):
            group, text, target = sentence
            found = int(np.count_nonzero(mask)), iou(mask, target)
            yield Asked(source, self.scene.scene_id, group, text, *found, *certain)


def iou(mask: Array, target: Array | None) -> float:
    """Return the IoU of an answer (N,) bool with its target, 0 where there is none."""
    if target is None:
        return 0.0
    return float((mask & target).sum() / max((mask | target).sum(), 1))


def ask_words(plan: Plan, rooms: Sequence[Room]) -> Iterator[Asked]:
    """Ask the student of a run by words alone."""
    engine = make_engine(plan, "cpu")
    for room in rooms:
        answers = engine.ask(room.scene.scene_id, [text for _, text, _ in room.sentences])
        sure = np.array([(a.presence, a.quality) for a in answers])
        yield from room.answered(_WORDS, [a.mask for a in answers], sure)


def ask_teacher(plan: Plan, rooms: Sequence[Room]) -> Iterator[Asked]:
    """Ask the teacher in all views, fuse its masks and combine the labels with the student."""
    cfg = plan.experiment
    for room in rooms:
        scene, scene_id = room.scene, room.scene.scene_id
        labels = labels_of(plan, room)
        if plan.has_student:
            student = plan.student().folder
            predictions = predict_masks.run(scene, labels, student, cfg.predict, "cpu")
        else:
            predictions = predict_masks.run_without_student(labels, cfg.predict)
        sure = np.stack([predictions.presences, predictions.qualities], axis=2)
        of_labels, of_both = (sure[:, SOURCES.index(name)] for name in ("fusion_only", "together"))
        yield from room.answered(_LABELS, list(labels.answers()), of_labels)
        if plan.has_student:
            yield from room.answered(_TOGETHER, list(predictions.together), of_both)
        print(f"{scene_id}: {len(room.sentences)} sentences", file=sys.stderr, flush=True)


def labels_of(plan: Plan, room: Room) -> PseudoLabels:
    """Ask the teacher a room's sentences in all views and fuse its masks as in the run."""
    cfg, scene = plan.experiment, room.scene
    texts = [text for _, text, _ in room.sentences]
    prompts = [
        Prompt(f"{scene.scene_id}_{number:04d}", scene.scene_id, text, "exam")
        for number, text in enumerate(texts)
    ]
    views = [view.view_id for view in scene.views]
    with tempfile.TemporaryDirectory() as folder:
        writer = TeacherWriter(Path(folder), views, [prompt.prompt_id for prompt in prompts])
        run_teacher.run(scene, prompts, lambda: make_teacher(cfg.teacher, "cpu"), writer)
        links = plan.read("link_points", "links", scene.scene_id)
        return fuse_masks.run(scene, links, TeacherCache(Path(folder) / FILE), cfg.fuse)


def summary(asked: Sequence[Asked]) -> dict[str, dict[str, float]]:
    """Return, by source, the share of sentences with a mask by group, and present ones' mean IoU.

    ``nothing`` is over all groups but ``PRESENT``. The AUC is that of presence between present
    sentences and all others, the expected calibration error that of presence.
    """
    rows: dict[str, dict[str, float]] = {}
    for source in dict.fromkeys(one.source for one in asked):
        of_source = [one for one in asked if one.source == source]
        groups = dict.fromkeys(one.group for one in of_source)
        shares = {name: _share([a for a in of_source if a.group == name]) for name in groups}
        nothing = [one for one in of_source if one.group != PRESENT]
        present = [one.iou for one in of_source if one.group == PRESENT]
        mean = float(np.mean(present)) if present else float("nan")
        is_present = np.array([one.group == PRESENT for one in of_source])
        sure = np.array([one.presence for one in of_source])
        rows[source] = {
            "nothing": _share(nothing),
            **shares,
            "present, mean IoU": mean,
            "presence, AUC": auc(sure, is_present),
            "presence, calibration error": calibration_error(sure, is_present.astype(float)),
        }
    return rows


def _share(asked: Sequence[Asked]) -> float:
    return float(np.mean([one.num_points > 0 for one in asked])) if asked else float("nan")


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Write the summary as Markdown, in percent."""
    names = list(next(iter(rows.values())))
    lines = [f"| | {' | '.join(rows)} |", "|---" * (len(rows) + 1) + "|"]
    for name in names:
        cells = " | ".join(f"{100 * rows[source][name]:.1f}" for source in rows)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def ask_all(options: argparse.Namespace) -> list[Asked]:
    """Ask student and teacher of the run that the command line names; UserError without one."""
    plan = load_plan(options.scene_set, options.config, options.overrides)
    rooms = [
        Room.of(
            plan.read("prepare_scene", "scene", name),
            plan.read("prepare_scene", "truth", name),
            options.sentences,
        )
        for name in plan.scenes(options.split)
    ]
    asked: list[Asked] = []
    if plan.has_student:
        check_student(plan)
        asked += ask_words(plan, rooms)
    if not options.words_only:
        asked += ask_teacher(plan, rooms)
    return asked


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask, print the table, and write every answer to a file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nothing_fits", description=__doc__)
    parser.add_argument("--scene-set", default="demo", help="a generated scene set")
    parser.add_argument("--config", default="", help="as for luigi")
    parser.add_argument("--overrides", default="", help="as for luigi")
    parser.add_argument("--split", default="val", choices=["train", "val", "tune"])
    parser.add_argument("--sentences", default="exam", choices=["exam", "tuning"])
    parser.add_argument("--words-only", action="store_true", help="do not ask the teacher")
    parser.add_argument("--output", type=Path, help="file for all answers (JSON)")
    options = parser.parse_args(arguments)
    try:
        asked = ask_all(options)
    except UserError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print(table(summary(asked)))
    if options.output:
        options.output.write_text(json.dumps([vars(one) for one in asked], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
