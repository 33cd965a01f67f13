"""Inputs of the report, of the answers page and of the comparison."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data.artifacts.evaluation import Evaluation
from data.artifacts.soft_masks import PseudoLabels, StudentTrust
from data.artifacts.teacher import TeacherCache
from data.queries.vocabulary import MOST_SUGGESTED
from data.types import Array, Prompt, Scene
from stages.configs import Experiment


@dataclass(frozen=True)
class StageRecord:
    """The cost of a stage: summed seconds and peak memory over its ``count`` artifacts."""

    stage: str
    fingerprint: str
    wall_seconds: float
    peak_memory_mb: float
    count: int = 1


@dataclass(frozen=True, eq=False)
class ReportScene:
    """A scene to draw, with masks by source and prompt id and truths by prompt id.

    Every mask is (N,) bool over the scene's points; a mask that is missing is drawn as empty. The
    views of a query are shown where ``teacher`` and ``labels`` are given.
    """

    scene: Scene
    masks: Mapping[str, Mapping[str, Array]]
    truths: Mapping[str, Array]
    teacher: TeacherCache | None = None
    labels: PseudoLabels | None = None


@dataclass(frozen=True, eq=False)
class RunRecord:
    """The settings and costs of a run.

    ``training`` holds the rows of ``metrics.jsonl``; rows with a number under "loss" make the loss
    curve, over "epoch" where a row has it. ``supervised`` is True where the student was trained on
    ground truth; ``has_student`` is False where the labels are the answer. ``teacher_warning`` is
    what readers must know of the teacher, or "".
    """

    scene_set: str
    teacher_name: str
    config: Experiment
    stages: Sequence[StageRecord]
    training: Sequence[Mapping[str, Any]] = ()
    supervised: bool = False
    has_student: bool = True
    teacher_warning: str = ""


@dataclass(frozen=True, eq=False)
class ReportInputs:
    """The inputs of the report's page.

    ``scenes`` is called once and gives one scene at a time. ``ablation`` is the content of
    ``ablation.json``, None for a page without that section.
    """

    evaluation: Evaluation
    scenes: Callable[[], Iterable[ReportScene]]
    record: RunRecord
    ablation: Mapping[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class AnsweredScene:
    """A scene without ground truth: its queries, masks by source and prompt id, and certainty.

    Sources are those of an evaluation. ``certainty`` by prompt id are presence and quality of the
    answer of "together" (``stages.certainty``); ``answers`` holds the answers in words.
    ``bank`` maps the prompt ids of the background vocabulary to its categories; ``met`` are the
    words that the teacher has met, None where its weights do not tell. ``trust`` is how far the
    student counts in the answers together, None without one.
    """

    scene: Scene
    prompts: Sequence[Prompt]
    masks: Mapping[str, Mapping[str, Array]]
    certainty: Mapping[str, tuple[float, float]]
    answers: Mapping[str, str] = field(default_factory=dict)
    teacher: TeacherCache | None = None
    labels: PseudoLabels | None = None
    bank: Mapping[str, str] = field(default_factory=dict)
    met: Collection[str] | None = None
    trust: StudentTrust | None = None

    def holds(self) -> tuple[str, ...]:
        """Categories of the bank, else the scene's other sentences, with an answer; surest first.

        At most ``MOST_SUGGESTED``.
        """
        names = self.bank or {prompt.prompt_id: prompt.text for prompt in self.prompts}
        masks = self.masks["together"]
        found = [key for key in names if key in masks and masks[key].any()]
        found.sort(key=lambda key: -self.certainty.get(key, (0.0, 0.0))[0])
        return tuple(names[key] for key in found[:MOST_SUGGESTED])


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """One run of a comparison.

    ``name`` is the user's argument, ``facts`` are texts about the run by title. ``targets`` holds
    the object ids of queries by prompt id, for queries whose targets are known; ``warnings`` are
    sentences about labels that the run used.
    """

    name: str
    evaluation: Evaluation
    facts: Mapping[str, str]
    targets: Mapping[str, tuple[int, ...]]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """A key of the config, or an external input, with its value in each run as text."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ComparedScene:
    """A scene to draw, with each run's masks by prompt id and the truths by prompt id.

    Every mask is (N,) bool over the scene's points; a mask that is missing is drawn as empty. Runs
    may have different teachers and views, so views are not shown.
    """

    scene: Scene
    masks: Sequence[Mapping[str, Array]]
    truths: Mapping[str, Array]
    teacher: None = None
    labels: None = None


@dataclass(frozen=True, eq=False)
class CompareInputs:
    """The inputs of a comparison of two to six runs, each compared with the first.

    ``source`` names the masks (``data.artifacts.evaluation.SOURCES``). ``settings`` and
    ``outside`` are the settings and external inputs in which runs differ. ``scenes`` is called
    once with the ids of the scenes to draw, and gives the scenes that exist, one at a time.
    """

    runs: Sequence[ComparedRun]
    source: str
    settings: Sequence[Setting]
    outside: Sequence[Setting]
    scenes: Callable[[Collection[str]], Iterable[ComparedScene]]
