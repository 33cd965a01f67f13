"""The teacher asked a new sentence on the views that show most of the student's answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.mask_grid import cells_to_pixels
from data.types import Array
from stages.pictures import ONLY
from stages.view_images import read_image
from stages.viewer.content import ViewedScene

if TYPE_CHECKING:
    from models.teacher import AnyTeacher

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
