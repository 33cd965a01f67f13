"""Inputs of the report's page and of the comparison's page."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data.artifacts.evaluation import Evaluation
from data.artifacts.soft_masks import PseudoLabels
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


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """One run: ``name`` is what was asked for, ``facts`` what to tell of it by title.

    ``targets`` are the ids of each query's objects by prompt id, as far as they are known;
    ``warnings`` are sentences about labels that the run saw.
    """

    name: str
    evaluation: Evaluation
    facts: Mapping[str, str]
    targets: Mapping[str, tuple[int, ...]]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """A key of the config, or an input from outside, with what each run has for it, as text."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ComparedScene:
    """A scene to draw: each run's masks by prompt id, and what is true by prompt id.

    Every mask is (N,) bool over the scene's points; one that is not there is drawn as empty.
    Runs may have had different teachers and views, so those are not shown.
    """

    scene: Scene
    masks: Sequence[Mapping[str, Array]]
    truths: Mapping[str, Array]
    teacher: None = None
    labels: None = None


@dataclass(frozen=True, eq=False)
class CompareInputs:
    """Two to six runs, the first of which the others are measured against.

    ``source`` says whose masks (``data.artifacts.evaluation.SOURCES``). ``settings`` and
    ``outside`` are those in which runs differ. ``scenes`` is called once, with the ids of the
    scenes to draw, and gives those it has, one at a time.
    """

    runs: Sequence[ComparedRun]
    source: str
    settings: Sequence[Setting]
    outside: Sequence[Setting]
    scenes: Callable[[Collection[str]], Iterable[ComparedScene]]
