"""What a comparison of runs shows: everything its page is made from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from data.artifacts.evaluation import Evaluation
from data.types import Array, Scene


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
