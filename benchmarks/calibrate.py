"""Fit how sure answers are, ``predict.certainty``, to the tuning rooms of a finished run.

    python -m benchmarks.calibrate --scene-set demo

Asks the sentences of ``data/rooms/tuning.yaml`` and the rooms' own queries of teacher, student and
words, and fits logistics of the answers' features (``stages.certainty``) to whether there is an
answer, and to its IoU. Prints the weights as YAML, and how well they tell presence and quality of
rooms that are left out in turn. No room that is judged is read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from scipy.optimize import minimize

from benchmarks.nothing_fits import PRESENT, Room, iou, labels_of
from data.artifacts.soft_masks import PseudoLabels
from data.errors import UserError
from data.queries.prompts import target_ids
from data.types import Array
from pipeline.commands.query import check_student
from pipeline.plan import Plan, load_plan
from pipeline.steps import STEPS
from pipeline.steps.questions import questions_of
from stages.certainty import Features, logistic
from stages.configs import FEATURES
from stages.evaluation.calibration import calibration_error, rank_correlation
from stages.evaluation.metrics import auc
from stages.student import predict_masks
from stages.student.text_encoding import encode_queries

KEPT = 0.96
"""Share of what is there that a least presence, printed beside the weights, must keep."""
PENALTY = 0.01
"""Of squared weights, in units of the mean loss, features scaled to unit deviation."""


@dataclass(frozen=True, eq=False)
class Described:
    """Answers of one source in one room: features (Q,) by name, whether present, and the IoU.

    ``has_mask`` (Q,) bool tells which sentences were answered.
    """

    room: str
    features: Features
    is_present: Array
    ious: Array
    has_mask: Array


def room_of(plan: Plan, name: str) -> Room:
    """Return a room with the tuning sentences and its own queries."""
    scene = plan.read("prepare_scene", "scene", name)
    truth = plan.read("prepare_scene", "truth", name)
    room = Room.of(scene, truth, "tuning")
    truths = plan.read("prepare_prompts", "truths")
    own: list[tuple[str, str, Array | None]] = []
    for prompt in questions_of(plan).of(name):
        ids = target_ids(name, prompt, truths, truth)
        own.append((PRESENT if ids else prompt.task, prompt.text, truth.mask(ids) if ids else None))
    return Room(scene, (*room.sentences, *own))


def describe(plan: Plan, room: Room) -> Iterator[tuple[str, Described]]:
    """Ask a room's sentences in all ways and describe the answers."""
    texts = [text for _, text, _ in room.sentences]
    for whose, features, masks in answered(plan, room, labels_of(plan, room), texts):
        pairs = zip(masks, (target for _, _, target in room.sentences), strict=True)
        ious = [iou(mask, target) for mask, target in pairs]
        present = np.array([group == PRESENT for group, *_ in room.sentences])
        name, found = room.scene.scene_id, np.asarray(masks.any(axis=1))
        yield whose, Described(name, features, present, np.array(ious), found)


def answered(
    plan: Plan, room: Room, labels: PseudoLabels, texts: Sequence[str]
) -> Iterator[tuple[str, Features, Array]]:
    """Yield whose answers, their features and their masks (Q, N)."""
    cfg, scene, student = plan.experiment, room.scene, plan.student().folder
    masks, probs = predict_masks.read_by_views(scene, labels, student, cfg.predict)
    of_labels = predict_masks.label_answers(labels, masks)
    found = masks.predictions(labels.prompt_ids, probs, of_labels)
    features = masks.features(masks.smoothed(probs), of_labels)
    yield "student", features["student"], found.masks
    yield "labels", features["labels"], labels.answers()
    yield "together", features["together"], found.together
    text = plan.read_part(STEPS["distil_text"], "text", plan.text())
    tokens, known = encode_queries(text, texts, cfg.text, cfg.teacher, "cpu")
    masks, probs = predict_masks.read_by_words(scene, tokens, student, cfg.predict)
    prompt_ids = tuple(map(str, range(len(texts))))
    told = masks.told_by_words(probs, known)
    answers = masks.predictions_by_words(prompt_ids, told).masks
    yield "words", masks.features(masks.smoothed(probs), known=known)["words"], answers


def fit(
    features: Features, names: Sequence[str], outcomes: Array, counts: Array
) -> dict[str, float]:
    """Fit a logistic of features to outcomes (Q,) in [0, 1] by their cross entropy.

    ``counts`` (Q,) weigh the answers.
    """
    shares = counts / counts.sum()
    columns = np.stack([features[name] for name in names], axis=1)
    mean, deviation = columns.mean(axis=0), np.maximum(columns.std(axis=0), 1e-6)
    scaled = (columns - mean) / deviation

    def loss(weights: Array) -> tuple[float, Array]:
        total = scaled @ weights[:-1] + weights[-1]
        cross = np.logaddexp(0, total) - outcomes * total
        slope = (1 / (1 + np.exp(-total)) - outcomes) * shares
        gradient = np.append(scaled.T @ slope + 2 * PENALTY * weights[:-1], slope.sum())
        return float(cross @ shares + PENALTY * (weights[:-1] ** 2).sum()), gradient

    found = minimize(loss, np.zeros(len(names) + 1), jac=True, method="L-BFGS-B").x
    weights = found[:-1] / deviation
    bias = float(found[-1] - weights @ mean)
    return {**dict(zip(names, weights.tolist(), strict=True)), "bias": bias}


def fit_all(rooms: Sequence[Described], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Fit presence to all answers of rooms, and quality to those about what is there.

    What is there and what is not weigh alike, so presence is that of even odds.
    """
    features = {name: np.concatenate([room.features[name] for room in rooms]) for name in names}
    is_present = np.concatenate([room.is_present for room in rooms])
    ious = np.concatenate([room.ious for room in rooms])
    of_present = {name: values[is_present] for name, values in features.items()}
    even = np.where(is_present, 1 / max(is_present.sum(), 1), 1 / max((~is_present).sum(), 1))
    return {
        "presence": fit(features, names, is_present.astype(float), even),
        "quality": fit(of_present, names, ious[is_present], np.ones(len(ious[is_present]))),
    }


def left_out(rooms: Sequence[Described], names: Sequence[str]) -> dict[str, float]:
    """Return figures of rooms whose weights are fitted to the other rooms."""
    presences, qualities = [], []
    for room in rooms:
        weights = fit_all([other for other in rooms if other is not room], names)
        presences.append(logistic(room.features, weights["presence"]))
        qualities.append(logistic(room.features, weights["quality"])[room.is_present])
    is_present = np.concatenate([room.is_present for room in rooms])
    ious = np.concatenate([room.ious[room.is_present] for room in rooms])
    presence, quality = np.concatenate(presences), np.concatenate(qualities)
    has_mask = np.concatenate([room.has_mask for room in rooms])
    least = float(np.quantile(presence[is_present], 1 - KEPT))
    return {
        "present with a mask": has_mask[is_present].mean(),
        "nothing with a mask": has_mask[~is_present].mean(),
        f"presence that {100 * KEPT:.0f} % of present have": least,
        "nothing that has it": (presence[~is_present] >= least).mean(),
        "auc": auc(presence, is_present),
        "presence error": calibration_error(presence, is_present.astype(float)),
        "rank correlation": rank_correlation(quality, ious),
        "quality error": calibration_error(quality, ious),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, print the weights and how good they are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibrate", description=__doc__)
    parser.add_argument("--scene-set", default="demo", help="a generated scene set")
    parser.add_argument("--config", default="", help="as for luigi")
    parser.add_argument("--overrides", default="", help="as for luigi")
    options = parser.parse_args(arguments)
    by_source: dict[str, list[Described]] = {}
    try:
        plan = load_plan(options.scene_set, options.config, options.overrides)
        check_student(plan)
        for name in plan.scenes("tune"):
            room = room_of(plan, name)
            for whose, described in describe(plan, room):
                by_source.setdefault(whose, []).append(described)
            print(f"{name}: {len(room.sentences)} sentences", file=sys.stderr, flush=True)
    except UserError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    if not by_source:
        print(f"{parser.prog}: {options.scene_set} has no tuning rooms", file=sys.stderr)
        return 2
    fitted = {
        f"{whose}_{part}": weights
        for whose, rooms in by_source.items()
        for part, weights in fit_all(rooms, FEATURES[whose]).items()
    }
    print(yaml.safe_dump({"predict": {"certainty": rounded(fitted)}}, sort_keys=False))
    for whose, rooms in by_source.items():
        figures = left_out(rooms, FEATURES[whose]).items()
        print(f"# {whose}: " + ", ".join(f"{name} {value:.3f}" for name, value in figures))
    return 0


def rounded(content: Mapping[str, Any]) -> dict[str, Any]:
    """Round all numbers to three digits behind the point."""
    return {
        name: rounded(value) if isinstance(value, Mapping) else round(value, 3)
        for name, value in content.items()
    }


if __name__ == "__main__":
    sys.exit(main())
