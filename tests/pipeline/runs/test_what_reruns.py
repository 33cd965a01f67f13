"""Every config key is held to the stages that a change of it may rerun, and to no other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from pipeline.config import overrides_with
from pipeline.plan import load_plan
from stages.configs import FEATURES, Experiment
from tests.support.worlds.text_folders import clip_folder

STUDENTS = ("train_student", "distil_text")
PER_SET = ("prepare_prompts", "parse_queries", "train_student", "distil_text", "evaluate", "report")
PER_SCENE = (
    *(
        "generate_room",
        "prepare_scene",
        "link_points",
        "lift_features",
        "run_teacher",
        "evaluate_teacher_2d",
        "fuse_masks",
        "oracle_labels",
    ),
    *("predict_masks", "answer_questions"),
)
ANSWERS = {"predict_masks", "answer_questions", "evaluate", "report"}
LEARNT = {"train_student", *ANSWERS}
FUSED = {"fuse_masks", "oracle_labels", "distil_text", *LEARNT}
ASKED = {"run_teacher", "evaluate_teacher_2d", *FUSED}
ALL = {*PER_SET, *PER_SCENE}
LISA = {"lift_features", *ASKED}

# The longest prefix of a key counts.
MAY_RERUN: Mapping[str, set[str]] = {
    "generate": ALL,
    "prepare": ALL - {"generate_room", "prepare_prompts", "parse_queries"},
    **{
        f"prepare.superpoint_{name}": ALL
        - {"generate_room", "prepare_prompts", "parse_queries", "link_points", "run_teacher"}
        for name in ("threshold", "min_points", "color", "smoothing")
    },
    "relations": {"parse_queries", *ASKED},
    "prompts": {
        "prepare_prompts",
        "parse_queries",
        "oracle_labels",
        "evaluate_teacher_2d",
        "answer_questions",
        "evaluate",
        "report",
    },
    "prompts.bank": ASKED,
    "prompts.rooms": set(),  # Of sets with places alone.
    "link": {"link_points", "lift_features", *FUSED},
    "teacher.name": LISA,
    "teacher.class": LISA,
    "teacher.seed": set(),  # LISA draws nothing.
    "teacher.options": set(),
    "teacher.oracle": set(),
    "teacher.lisa": LISA,
    "fuse": FUSED,
    "student": LEARNT,
    "finetune": set(),  # Unless a start is given.
    "finetune.start": LEARNT,
    "text": {"distil_text"},
    "predict": ANSWERS,
    "predict.student": set(),  # The set's own is what answers anyway.
    "judge": {"evaluate_teacher_2d", "evaluate", "report"},
    "report": {"report"},
}
# What no rule below makes a valid value of.
VALUES: Mapping[str, Any] = {
    "relations.mode": "off",
    "generate.scan": "clean",  # The demo's is scanned, and has the settings for that.
    "prepare.superpoint_smoothing": 2,
    "prompts.bank": ["wall"],
    "prompts.rooms": {"loft": ["the beam"]},
    "teacher.options": {"a": 1},
    "teacher.lisa.use_start_end": False,
    "teacher.lisa.dtype": "bfloat16",
    "finetune.start": "demo",
    "predict.student": "demo",
    **{
        f"predict.certainty.{whose}_{part}": {"peak": 2.5}
        for whose in FEATURES
        for part in ("presence", "quality")
    },
}
LEFT_TO_OTHERS = {
    "generate.tune_rooms": "test_tuning_split: needs a split of that name",
    "teacher.name": "test_teacher_identity: needs weights",
    "teacher.class": "test_teacher_identity: needs code",
    "teacher.lisa.weights": "test_teacher_identity: needs weights",
    "teacher.lisa.vision_tower": "test_teacher_identity: needs weights",
    "text.weights": "goes with text.encoder, below",
    "steps": "test_declaration: modules of one's own",
    "student.least_scenes": "test_own_scan: decides whether there is a student",
    "student.loss.image": "test_image_distillation: adds a stage",
}


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, annotation, default) of everything that may be set."""
    for name, field in model.model_fields.items():
        key, kind = prefix + (field.alias or name), field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, f"{key}.")
        else:
            yield key, field, field.default


LEAVES = {key: (field, default) for key, field, default in leaves(Experiment)}


def another(key: str) -> Any:
    """A valid value that is not the default."""
    field, default = LEAVES[key]
    if key in VALUES:
        return VALUES[key]
    if isinstance(default, bool):
        return not default
    if get_origin(field.annotation) is not None:
        return next(value for value in get_args(field.annotation) if value != default)
    if isinstance(default, int):
        return default + 1
    if isinstance(default, float):
        return default * 0.9 if default else 0.05
    raise AssertionError(f"{key}: say in VALUES what to change it to")


@cache
def fingerprints(overrides: str) -> dict[str, str]:
    plan = load_plan("demo", "", overrides)
    # The scene is the demo's: with other rooms it is named otherwise, and so is all of it.
    scene = plan.scenes("val")[0]
    keys = {name: plan.key(name, scene) for name in PER_SCENE}
    keys |= {name: plan.key(name) for name in PER_SET if name not in STUDENTS}
    # The student and the text student that answer, which may be another set's.
    keys |= {"train_student": plan.student(), "distil_text": plan.text()}
    return {name: key.fingerprint for name, key in keys.items()}


def expected(key: str) -> set[str]:
    parts = key.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next(MAY_RERUN[prefix] for prefix in prefixes if prefix in MAY_RERUN)


@pytest.mark.parametrize("key", [key for key in LEAVES if key not in LEFT_TO_OTHERS])
def test_a_key_reruns_what_it_may_and_nothing_else(key: str, tmp_path: Path) -> None:
    value = another(key)
    if key.startswith("text."):
        check_text(key, value, tmp_path)
        return
    nested: Any = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    found = fingerprints(overrides_with("", nested))
    before = fingerprints("")
    assert {name for name in before if before[name] != found[name]} == expected(key), json.dumps(
        nested
    )


def check_text(key: str, value: Any, folder: Path) -> None:
    """Encoder and weights go together."""
    if key == "text.images_per_scene":
        overrides = f"text.images_per_scene={value}"
    else:
        overrides = f"text.encoder=clip,text.weights={clip_folder(folder / 'clip')}"
    found, before = fingerprints(overrides), fingerprints("")
    assert {name for name in before if before[name] != found[name]} == {"distil_text"}


def test_the_table_names_no_key_that_there_is_not() -> None:
    sections = {".".join(key.split(".")[:n]) for key in LEAVES for n in range(1, 4)}
    assert set(MAY_RERUN) <= sections and set(VALUES) | set(LEFT_TO_OTHERS) <= set(LEAVES)
