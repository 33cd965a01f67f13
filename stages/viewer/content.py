"""What the viewer shows, and where it has it from: no file, no plan, only what gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.types import Array, Scene
from stages.boxes import centre_and_size

if TYPE_CHECKING:
    from models.teacher import AnyTeacher
    from stages.ask_student import StudentEngine

NONE = 1.01
"""A threshold that nothing reaches."""


@dataclass(frozen=True, eq=False)
class Belief:
    """Whose answer it is, how sure of each point (``probs`` (N,) float32), and from where on.

    ``score`` in [0, 1] tells how sure it is that what was asked for is there.
    """

    source: str
    probs: Array
    threshold: float
    score: float

    @classmethod
    def of_mask(cls, source: str, mask: Array, score: float = 1.0) -> Belief:
        """What is known of a mask (N,) bool alone."""
        return cls(source, mask.astype(np.float32), 0.5 if mask.any() else NONE, score)


@dataclass(frozen=True, eq=False)
class Query:
    """A sentence, what is answered by whom, and the truth (N,) bool where it is known."""

    text: str
    beliefs: tuple[Belief, ...]
    truth: Array | None = None


@dataclass(frozen=True, eq=False)
class ViewedScene:
    """A scan with its stored queries; ``seen_by`` gives the points that a view sees, if known."""

    scene: Scene
    queries: tuple[Query, ...]
    seen_by: Callable[[int], Array] | None = None


@dataclass(frozen=True, eq=False)
class ViewedRun:
    """A run: the scans' ids, and what reads or makes the rest when it is wanted.

    ``make_engine`` and ``make_teacher`` raise UserError where the run has none.
    """

    title: str
    scenes: tuple[str, ...]
    read: Callable[[str], ViewedScene]
    make_engine: Callable[[], StudentEngine]
    make_teacher: Callable[[], AnyTeacher]


def figures(points: Array, mask: Array, score: float | None) -> Mapping[str, str]:
    """Score, points, size and centre of an answer as the page tells them."""
    centre, size = centre_and_size(points[mask])
    told = {
        "Score": "" if score is None else f"{score:.2f}",
        "Points": f"{int(np.count_nonzero(mask)):,} of {len(mask):,}",
        "Size": "nothing found",
        "Centre": "nothing found",
    }
    if centre is None or size is None:
        return told
    told["Size"] = " x ".join(f"{value:.2f}" for value in size) + " m"
    told["Centre"] = ", ".join(f"{value:.2f}" for value in centre) + " m"
    return told
