"""The scenes, queries and answers that the viewer shows, and the teacher's answers on views."""

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
"""A threshold above every probability."""


@dataclass(frozen=True, eq=False)
class QueryAnswer:
    """The answer of one ``source``: ``probs`` (N,) float32 and the threshold of its mask.

    ``score`` in [0, 1] is the confidence that the object of the query exists.
    """

    source: str
    probs: Array
    threshold: float
    score: float

    @classmethod
    def of_mask(cls, source: str, mask: Array, score: float = 1.0) -> QueryAnswer:
        """Make an answer from a mask (N,) bool alone."""
        return cls(source, mask.astype(np.float32), 0.5 if mask.any() else NONE, score)


@dataclass(frozen=True, eq=False)
class Query:
    """A sentence, its answers by source, and the truth (N,) bool, None where it is unknown."""

    text: str
    answers: tuple[QueryAnswer, ...]
    truth: Array | None = None


@dataclass(frozen=True, eq=False)
class ViewedScene:
    """A scan with its stored queries.

    ``seen_by`` returns the ids of the points that a view sees; None where links are missing.
    """

    scene: Scene
    queries: tuple[Query, ...]
    seen_by: Callable[[int], Array] | None = None


@dataclass(frozen=True, eq=False)
class ViewedRun:
    """A run: the ids of its scans, and functions that load the rest when it is needed.

    ``make_engine`` and ``make_teacher`` raise UserError where the run has no student or teacher.
    """

    title: str
    scenes: tuple[str, ...]
    read: Callable[[str], ViewedScene]
    make_engine: Callable[[], StudentEngine]
    make_teacher: Callable[[], AnyTeacher]


def answer_facts(points: Array, mask: Array, score: float | None) -> Mapping[str, str]:
    """Return score, points, size and centre of an answer as texts for the page."""
    centre, size = centre_and_size(points[mask])
    facts = {
        "Score": "" if score is None else f"{score:.2f}",
        "Points": f"{int(np.count_nonzero(mask)):,} of {len(mask):,}",
        "Size": "nothing fits",
        "Centre": "nothing fits",
    }
    if centre is None or size is None:
        return facts
    facts["Size"] = " x ".join(f"{value:.2f}" for value in size) + " m"
    facts["Centre"] = ", ".join(f"{value:.2f}" for value in centre) + " m"
    return facts


NUM_VIEWS = 3
_TINT = 0.6


@dataclass(frozen=True, eq=False)
class TeacherView:
    """The teacher's answer on a view; ``picture`` (H, W, 3) uint8 has its masks tinted."""

    view_id: str
    text: str
    num_masks: int
    picture: Array


def best_views(viewed: ViewedScene, mask: Array, count: int = NUM_VIEWS) -> list[int]:
    """Return the views that see most points of ``mask`` (N,), most first.

    An empty mask counts as all points. Without ``seen_by`` the first views are returned.
    """
    num_views = len(viewed.scene.views)
    if viewed.seen_by is None:
        return list(range(min(count, num_views)))
    target = mask if mask.any() else np.ones_like(mask)
    num_seen = [int(np.count_nonzero(target[viewed.seen_by(view)])) for view in range(num_views)]
    return sorted(range(num_views), key=lambda view: -num_seen[view])[:count]


def ask_views(
    viewed: ViewedScene, views: list[int], text: str, make_teacher: Callable[[], AnyTeacher]
) -> Iterator[TeacherView]:
    """Yield the teacher's answer on each of ``views``, one at a time.

    Raises UserError where the run has no teacher, DataError for an image that cannot be read.
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
