"""Stage: what LISA-nano has learnt, measured on rooms, poses and wordings it has not seen.

The pictures come through the demo's own lens at the demo's size, the questions are the demo's
own in the words of its training rooms and, for the very same objects, in words kept from all
training. Everything is asked through the teacher's public methods, greedily; where an object
is in view and the answer has no mask its IoU is 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data.mask_grid import cells_to_pixels
from data.progress import Progress, silent
from data.rooms.sentences import say_as_demo
from data.rooms.snapshots import Snapshots
from data.rooms.view_queries import Viewer, ViewQuery, ask_view
from data.types import Array
from models.teacher import AnyTeacher, TeacherAnswer

_ASKED = ("name", "need", "color", "on", "all", "both")


@dataclass(frozen=True, eq=False)
class Result:
    """One answer, marked.

    ``share`` is the part of the picture the object covers, 0 where it is not in view; ``iou``
    0 without a mask; ``belief`` the predicted IoU, 0 without a mask; ``token`` the [SEG]
    embedding or None.
    """

    query: ViewQuery
    held_out: bool
    share: float
    said_shown: bool
    named: bool
    iou: float
    belief: float
    token: Array | None


def run(
    teacher: AnyTeacher,
    pictures: Snapshots,
    questions: int,
    seed: int,
    progress: Progress = silent,
) -> list[Result]:
    """Ask ``questions`` per picture, each in seen and in held-out words, and mark the answers."""
    rng = np.random.default_rng([seed, 7])
    even = dict.fromkeys((known.label for room in pictures.rooms for known in room), 1.0)
    results: list[Result] = []
    for index in range(len(pictures)):
        progress(index, len(pictures))
        image, ids = np.asarray(pictures.images[index]), np.asarray(pictures.object_ids[index])
        viewer = Viewer(ids, pictures.rooms[int(pictures.room_of[index])], even)
        asked = list(_questions(viewer, rng, questions))
        texts = [say_as_demo(rng, query, held_out) for query, held_out in asked]
        view = teacher.encode_view(image, f"picture {index}")
        grid = teacher.mask_grid(*image.shape[:2])
        answers = teacher.answer(view, texts)
        for (query, held_out), answer in zip(asked, answers, strict=True):
            results.append(_mark(query, held_out, answer, ids, grid.extent))
    progress(len(pictures), len(pictures))
    return results


def _questions(
    viewer: Viewer, rng: np.random.Generator, count: int
) -> Iterator[tuple[ViewQuery, bool]]:
    done = 0
    while done < count:
        query = ask_view(viewer, rng)
        if query.kind in _ASKED:
            done += 1
            yield query, False
            yield query, True


def _mark(
    query: ViewQuery,
    held_out: bool,
    answer: TeacherAnswer,
    ids: Array,
    extent: tuple[float, float],
) -> Result:
    truth = np.isin(ids, query.targets)
    said, iou, belief, token = len(answer.mask_logits) > 0, 0.0, 0.0, None
    if said:
        logits = cells_to_pixels(answer.mask_logits[:1], extent, (ids.shape[0], ids.shape[1]))
        drawn = logits[0] > 0
        iou = float((drawn & truth).sum() / max((drawn | truth).sum(), 1))
        belief, token = float(answer.predicted_iou[0]), answer.seg_embeddings[0]
    named = answer.text.startswith(f"It is the {query.name},")
    return Result(query, held_out, float(truth.mean()), said, named, iou, belief, token)
