"""Arms of the ablation: what each changes in the experiment, and which of its masks are scored.

An arm is a layer over whatever the scene set, ``--config`` and ``--overrides`` say. Its tasks
are those of the pipeline under longer ``overrides``; what the layer does not reach has the same
fingerprint, so arms share scenes, links, the teacher's answers and, where they can, students.
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
"""The arm that is the system's answer; chosen on tuning rooms (``Ablation --split tune``)."""

_PLAIN: Mapping[str, Any] = {
    "token_gate": False,
    "agreement": False,
    "rivals": 0,
    "prior": 0,
    "no_seg_weight": 0,
}
_RAW: Mapping[str, Any] = {
    "superpoints": False,
    "neighbours": 0,
    "threshold": "half",
    "presence": 0,
}
_FILTERED: Mapping[str, Any] = {**_RAW, "views": "filtered", "agreement": True, "rivals": 0}


@dataclass(frozen=True)
class Arm:
    """One arm; ``layer`` is laid over the experiment's config, ``scored`` tells whose masks count.

    "labels" are FuseMasks', "student" and "together" PredictMasks', "teacher_2d" the teacher's
    own, on pictures.
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
        """Whether a student answers, so that the arm is run with several seeds."""
        return self.scored in ("student", "together")


@dataclass(frozen=True)
class ArmRun:
    """An arm with one seed; ``overrides`` is what its tasks and plan are given."""

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
    """The arms named, comma-separated, in the house's order; all for "".

    ConfigError for one there is not.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    known = {arm.name: arm for arm in ARMS}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(f"--arms: no arm {', '.join(unknown)}; there are {', '.join(known)}")
    return tuple(arm for arm in ARMS if not wanted or arm.name in wanted)


def possible(arms: Sequence[Arm], experiment: Experiment) -> tuple[Arm, ...]:
    """Those of the arms that the experiment allows.

    A teacher without a language model cannot encode sentences; unless another encoder is
    configured, no student can be asked by text.
    """
    has_words = experiment.teacher.is_lisa or experiment.text.encoder != "teacher"
    return tuple(
        arm for arm in arms if has_words or arm.layer.get("predict", {}).get("tokens") != "text"
    )


def runs(arms: Sequence[Arm], seeds: int, overrides: str) -> list[ArmRun]:
    """Each arm's runs over the user's ``overrides``: one, or ``seeds`` of a trained student."""
    found = []
    for arm in arms:
        for seed in range(seeds if arm.is_trained else 1):
            student: Mapping[str, Any] = {"student": {"seed": seed}} if arm.is_trained else {}
            layer = merge(arm.layer, student)
            found.append(ArmRun(arm, seed, overrides_with(overrides, layer)))
    return found
