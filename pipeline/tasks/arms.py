"""Arms of the ablation: the config changes of each, and the masks that are scored.

An arm is a config layer over the scene set's, ``--config`` and ``--overrides``. Its tasks are
those of the pipeline with extended ``overrides``. Artifacts that the layer does not affect keep
their fingerprint, so arms share scenes, links, teacher masks and, where possible, students.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from data.errors import ConfigError
from pipeline.config import merge, overrides_with
from stages.configs import Experiment

Scored = Literal["labels", "student", "together", "teacher_2d"]
SYSTEM = "FE"
"""The arm that is the system's answer, chosen on the tuning split (``Ablation --split tune``)."""

_EQUAL_LINKS: Mapping[str, Any] = {"edge_trust": 1.0, "trusted_distance": 0.0, "support": 0.0}
_PLAIN: Mapping[str, Any] = {
    **_EQUAL_LINKS,
    "token_gate": False,
    "agreement": False,
    "rivals": 0,
    "prior": 0,
    "no_seg_weight": 0,
    "relations": False,
}
_RAW: Mapping[str, Any] = {
    "superpoints": False,
    "neighbours": 0,
    "threshold": "half",
    "presence": 0,
}
_FILTERED: Mapping[str, Any] = {
    **_EQUAL_LINKS,
    **_RAW,
    "views": "filtered",
    "agreement": True,
    "rivals": 0,
    "relations": False,
}


@dataclass(frozen=True)
class Arm:
    """One arm of the ablation.

    Attributes:
        name, title: short and long name.
        scored: whose masks are scored: "labels" of FuseMasks, "student" or "together" of
            PredictMasks, or "teacher_2d", the teacher's own masks on images.
        layer: config layer merged over the experiment's config.
    """

    name: str
    title: str
    scored: Scored
    layer: Mapping[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> str:
        """Name of the step whose masks are scored."""
        steps = {"labels": "fuse_masks", "teacher_2d": "evaluate_teacher_2d"}
        return steps.get(self.scored, "predict_masks")

    @property
    def is_trained(self) -> bool:
        """Whether a student answers, so that the arm runs with several seeds."""
        return self.scored in ("student", "together")


@dataclass(frozen=True)
class ArmRun:
    """An arm with one seed; ``overrides`` are the parameters of its tasks and plan."""

    arm: Arm
    seed: int
    overrides: str


ARMS: tuple[Arm, ...] = (
    Arm("A", "best single view", "labels", {"fuse": {**_PLAIN, **_RAW, "views": "best"}}),
    Arm(
        "B",
        "uniform projection (published baseline)",
        "labels",
        {"fuse": {**_PLAIN, **_RAW, "views": "all"}},
    ),
    Arm(
        "B+", "B with E's superpoints and threshold", "labels", {"fuse": {**_PLAIN, "views": "all"}}
    ),
    Arm("C", "B with views filtered", "labels", {"fuse": {**_FILTERED, "token_gate": False}}),
    Arm("D", "C with token-for-query", "labels", {"fuse": {**_FILTERED, "token_gate": True}}),
    Arm("E", "D with spatial consistency", "labels"),
    Arm("F", "label-free student", "student"),
    Arm("FE", "student and labels together", "together"),
    Arm("G", "student asked by text alone", "student", {"predict": {"tokens": "text"}}),
    Arm(
        "H",
        "student trained with labels (upper bound)",
        "student",
        {"student": {"supervision": "oracle"}},
    ),
    Arm("I", "teacher in 2D, on pictures", "teacher_2d"),
)


def chosen(names: str) -> tuple[Arm, ...]:
    """The arms named in a comma-separated list, in the order of ``ARMS``; all for "".

    Raises ConfigError for an unknown arm.
    """
    chosen_names = [name.strip() for name in names.split(",") if name.strip()]
    by_name = {arm.name: arm for arm in ARMS}
    unknown = [name for name in chosen_names if name not in by_name]
    if unknown:
        raise ConfigError(
            f"--arms: expected some of {', '.join(by_name)}, found {', '.join(unknown)}"
        )
    return tuple(arm for arm in ARMS if not chosen_names or arm.name in chosen_names)


def possible(arms: Sequence[Arm], experiment: Experiment) -> tuple[Arm, ...]:
    """The arms that the experiment allows.

    A teacher without a language model cannot encode sentences, so without another text encoder
    no student can be queried by text.
    """
    has_words = experiment.teacher.is_lisa or experiment.text.encoder != "teacher"
    return tuple(
        arm for arm in arms if has_words or arm.layer.get("predict", {}).get("tokens") != "text"
    )


def runs(arms: Sequence[Arm], seeds: int, overrides: str) -> list[ArmRun]:
    """The runs of each arm over the user's ``overrides``: ``seeds`` for a student, else one."""
    arm_runs = []
    for arm in arms:
        for seed in range(seeds if arm.is_trained else 1):
            student: Mapping[str, Any] = {"student": {"seed": seed}} if arm.is_trained else {}
            layer = merge(arm.layer, student)
            arm_runs.append(ArmRun(arm, seed, overrides_with(overrides, layer)))
    return arm_runs
