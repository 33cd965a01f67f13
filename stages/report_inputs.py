"""What the report shows: everything its page is made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data.artifacts.evaluation import Evaluation
from data.artifacts.pseudo import PseudoLabels
from data.artifacts.teacher import TeacherCache
from data.types import Array, Prompt, Scene
from stages.configs import Experiment


@dataclass(frozen=True)
class StageRecord:
    """What one stage cost: summed seconds and largest memory over its ``count`` artifacts."""

    stage: str
    fingerprint: str
    wall_seconds: float
    peak_memory_mb: float
    count: int = 1


@dataclass(frozen=True, eq=False)
class ReportScene:
    """A scene to draw, with its masks by source and prompt id and its truth by prompt id.

    Every mask is (N,) bool over the scene's points; one that is not there is drawn as empty.
    The views of a query are shown where ``teacher`` and ``labels`` are given.
    """

    scene: Scene
    masks: Mapping[str, Mapping[str, Array]]
    truths: Mapping[str, Array]
    teacher: TeacherCache | None = None
    labels: PseudoLabels | None = None


@dataclass(frozen=True, eq=False)
class RunRecord:
    """How a run was made.

    ``training`` holds rows of ``metrics.jsonl``; those with a number under "loss" make the curve,
    over "epoch" where they have one. ``supervised``: the student was trained on truth.
    """

    scene_set: str
    teacher_name: str
    config: Experiment
    stages: Sequence[StageRecord]
    training: Sequence[Mapping[str, Any]] = ()
    supervised: bool = False


@dataclass(frozen=True, eq=False)
class ReportInputs:
    """Everything the page shows.

    ``scenes`` is called once, and the scenes it gives are taken one at a time. ``ablation`` is
    the content of ``ablation.json``, for a section of its own.
    """

    evaluation: Evaluation
    scenes: Callable[[], Iterable[ReportScene]]
    record: RunRecord
    ablation: Mapping[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class AnsweredScene:
    """A scene nothing is known of: its queries, masks by source and prompt id, and scores.

    Sources are those of an evaluation; ``scores`` by prompt id, in [0, 1], tell how sure the
    answer of "together" is that something fits; ``said`` are the answers in words.
    """

    scene: Scene
    prompts: Sequence[Prompt]
    masks: Mapping[str, Mapping[str, Array]]
    scores: Mapping[str, float]
    said: Mapping[str, str] = field(default_factory=dict)
    teacher: TeacherCache | None = None
    labels: PseudoLabels | None = None
