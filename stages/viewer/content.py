"""The content that the viewer shows, and the teacher's answers to a new sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.images import cells_to_pixels
from data.types import Array, Scene
from stages.evaluation.metrics import centre_and_size
from stages.report.pictures import ONLY
from stages.scene.view_images import read_image

if TYPE_CHECKING:
    from models.teacher import AnyTeacher
    from stages.student.ask_student import StudentEngine


NONE = 1.01
"""A threshold that nothing reaches."""


@dataclass(frozen=True, eq=False)
class QueryAnswer:
    """Whose answer it is, how sure of each point (``probs`` (N,) float32), and from where on.

    ``score`` in [0, 1] tells how sure it is that what was asked for is there.
    """

    source: str
    probs: Array
    threshold: float
    score: float

    @classmethod
    def of_mask(cls, source: str, mask: Array, score: float = 1.0) -> QueryAnswer:
        """What is known of a mask (N,) bool alone."""
        return cls(source, mask.astype(np.float32), 0.5 if mask.any() else NONE, score)


@dataclass(frozen=True, eq=False)
class Query:
    """A sentence, what is answered by whom, and the truth (N,) bool where it is known."""

    text: str
    answers: tuple[QueryAnswer, ...]
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


def answer_facts(points: Array, mask: Array, score: float | None) -> Mapping[str, str]:
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


NUM_VIEWS = 3
_TINT = 0.6


@dataclass(frozen=True, eq=False)
class TeacherView:
    """What the teacher said on a view; ``picture`` (H, W, 3) uint8 has its masks tinted."""

    view_id: str
    text: str
    num_masks: int
    picture: Array


def best_views(viewed: ViewedScene, mask: Array, count: int = NUM_VIEWS) -> list[int]:
    """The views that see most points of ``mask`` (N,), most first; of all points for an empty one.

    Where it is not known what views see, the first ones: they were chosen to show most.
    """
    number = len(viewed.scene.views)
    if viewed.seen_by is None:
        return list(range(min(count, number)))
    wanted = mask if mask.any() else np.ones_like(mask)
    seen = [int(np.count_nonzero(wanted[viewed.seen_by(view)])) for view in range(number)]
    return sorted(range(number), key=lambda view: -seen[view])[:count]


def ask_views(
    viewed: ViewedScene, views: list[int], text: str, make_teacher: Callable[[], AnyTeacher]
) -> Iterator[TeacherView]:
    """What the teacher answers on each of ``views``, one at a time.

    Raises UserError where there is no teacher to ask, DataError for an image that cannot be read.
    """
    teacher = make_teacher()
    for index in views:
        view = viewed.scene.views[index]
        image = read_image(view)
        (answer,) = teacher.answer(teacher.encode_view(image, view.view_id), [text])
        grid = teacher.mask_grid(*image.shape[:2])
        picture, size = image.copy(), (image.shape[0], image.shape[1])
        if len(answer.mask_logits):
            inside = (cells_to_pixels(answer.mask_logits, grid.extent, size) > 0).any(axis=0)
            tinted = (1 - _TINT) * image[inside] + _TINT * np.array(ONLY, np.float32)
            picture[inside] = np.rint(tinted).astype(np.uint8)
        yield TeacherView(view.view_id, answer.text, len(answer.mask_logits), picture)
