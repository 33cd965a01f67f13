"""Stage: what the teacher answered on the views of a scan, picture by picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from data.artifacts.pseudo import PseudoLabels
from data.artifacts.teacher import FAILED, MASK, TeacherCache
from data.types import Prompt, Scene
from stages.panels import BLUE, ORANGE, Panel, cell_width, over, resized, sheet
from stages.teacher_masks import mask_of
from stages.view_images import read_image

_COLUMNS = 4


def run(
    scene: Scene,
    cache: TeacherCache,
    prompts: Sequence[Prompt],
    labels: PseudoLabels | None,
    views: Sequence[int] | int,
) -> Iterator[tuple[Prompt, Image.Image]]:
    """A sheet for each of ``prompts``, of the views of those indices or of so many.

    Of so many: spread evenly from the view on which the teacher is surest to the one where it
    is least. With ``labels`` each view tells its weight, or why it was dropped.

    Raises ValueError for a prompt that the cache does not hold, DataError for a picture that
    cannot be read.
    """
    for prompt in prompts:
        column = cache.prompt_ids.index(prompt.prompt_id)
        chosen = spread_views(cache, column, views) if isinstance(views, int) else views
        panels = [_panel(scene, cache, labels, column, index) for index in chosen]
        said = int(np.count_nonzero(cache.status[:, column] == MASK))
        order = ", from the surest down" if isinstance(views, int) else ""
        about = (
            f"{prompt.prompt_id}, {prompt.task or 'no task'}. [SEG] on {said} of "
            f"{len(cache.view_ids)} views; {len(chosen)} shown{order}. Orange: the mask; blue: "
            "the mask that an answer without [SEG] held back."
        )
        yield prompt, sheet(prompt.text, about, panels, _COLUMNS)


def spread_views(cache: TeacherCache, column: int, count: int) -> list[int]:
    """At most ``count`` views of one query, evenly from the surest answer to the least sure.

    Sure is presence times predicted IoU, and an answer with [SEG] before one without.
    """
    sure = cache.presence[:, column] * cache.predicted_iou[:, column]
    ranked = np.lexsort((np.arange(len(sure)), -sure, cache.status[:, column] != MASK))
    picks = np.linspace(0, len(ranked) - 1, min(count, len(ranked)))
    return [int(index) for index in ranked[np.rint(picks).astype(int)]]


def _panel(
    scene: Scene, cache: TeacherCache, labels: PseudoLabels | None, column: int, index: int
) -> Panel:
    picture = resized(read_image(scene.views[index]), cell_width(_COLUMNS))
    status = int(cache.status[index, column])
    if cache.drawn[index, column]:
        color = ORANGE if status == MASK else BLUE
        mask = mask_of(cache, index, column, (picture.shape[0], picture.shape[1]))
        picture = over(picture, mask, color)
    figures = f"presence {cache.presence[index, column]:.2f}"
    if cache.drawn[index, column]:
        figures += f", predicted IoU {cache.predicted_iou[index, column]:.2f}"
    notes = [f"{_status(status)}; {figures}", *_weight(cache, labels, column, index)]
    answer = cache.answers[index][column]
    notes += [f"failed: {answer}" if status == FAILED else f'"{answer}"']
    return Panel(f"{index + 1}. {scene.views[index].view_id}", picture, tuple(notes), 3)


def _status(status: int) -> str:
    if status == MASK:
        return "[SEG]"
    return "failed" if status == FAILED else "none (no [SEG])"


def _weight(cache: TeacherCache, labels: PseudoLabels | None, column: int, index: int) -> list[str]:
    """The view's part in the lifted label, where there is one of this query."""
    prompt_id = cache.prompt_ids[column]
    if labels is None or prompt_id not in labels.prompt_ids:
        return []
    row = labels.prompt_ids.index(prompt_id)
    reason = labels.drop_reasons[row][index]
    if reason:
        return [f"dropped: {reason}"]
    return [f"gate weight {labels.view_weights[row, index]:.3f}"]
