"""Stage: ask a 2D teacher every query of a scene on every view and store all its answers.

A view on which the teacher fails is stored as failed with the reason, and the run goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from data.artifacts.teacher import FAILED, MASK, NO_SEG, TeacherWriter, ViewAnswers
from data.errors import UserError
from data.parallel import kept_memory, mapped, num_threads
from data.types import Array, Progress, Prompt, Scene, silent
from models.teacher import AnyTeacher, ManyViewsTeacher, MaskGrid, TeacherAnswer, WithheldMask
from stages.scene.view_images import read_image

_LOG = logging.getLogger(__name__)
_LONGEST_REASON = 500
_IMAGES_AHEAD = 4
"""Most images read ahead of the view that is asked; the number of threads limits it, too."""


@dataclass(frozen=True)
class TeacherReport:
    """Counts of (view, query) pairs by status, and (view id, reason) of each failed view."""

    masks: int
    no_seg: int
    failed: int
    failures: tuple[tuple[str, str], ...]


def run(
    scene: Scene,
    prompts: Sequence[Prompt],
    make_teacher: Callable[[], AnyTeacher],
    writer: TeacherWriter,
    progress: Progress = silent,
) -> TeacherReport:
    """Ask for the answers that ``writer`` lacks; the teacher is made only if any are missing.

    Each view is encoded once and each distinct text is asked once. Images are read ahead on
    spare threads, and a ``ManyViewsTeacher`` gets several views in one batch. A view on which
    the teacher raises or returns malformed answers is stored as failed with the reason, logged
    and counted; a later attempt of the same unfinished job asks it again.

    Raises DataError for an image that cannot be decoded or does not fit its camera, UserError
    when the teacher failed on every view, ValueError for prompts of another scene or views of
    different sizes.
    """
    _check(scene, prompts)
    with kept_memory():
        return _filled(scene, prompts, make_teacher, writer, progress)


def _filled(
    scene: Scene,
    prompts: Sequence[Prompt],
    make_teacher: Callable[[], AnyTeacher],
    writer: TeacherWriter,
    progress: Progress,
) -> TeacherReport:
    missing = writer.missing_views()
    failures: list[tuple[str, str]] = []
    if missing or not writer.begun:
        teacher = make_teacher()
        camera = scene.views[0].camera
        grid = teacher.mask_grid(camera.height, camera.width)
        writer.begin((grid.height, grid.width), grid.extent, teacher.embedding_dim)
        done = len(scene.views) - len(missing)
        progress(done, len(scene.views))
        for index, answers, reason in _ask_views(teacher, scene, missing, prompts, grid):
            writer.write_view(index, answers)
            done += 1
            progress(done, len(scene.views))
            if reason:
                failures.append((scene.views[index].view_id, reason))
                _LOG.warning("%s view %s: %s", scene.scene_id, *failures[-1])
    if failures and np.all(writer.status == FAILED):
        raise UserError(
            f"scene {scene.scene_id}: the teacher failed on all {len(scene.views)} views; "
            f"on {failures[0][0]}: {failures[0][1]}"
        )
    masks, no_seg, failed = (int(np.sum(writer.status == s)) for s in (MASK, NO_SEG, FAILED))
    return TeacherReport(masks, no_seg, failed, tuple(failures))


def _check(scene: Scene, prompts: Sequence[Prompt]) -> None:
    for prompt in prompts:
        if prompt.scene_id != scene.scene_id:
            raise ValueError(f"{prompt.prompt_id} is a prompt of another scene")
    sizes = {(view.camera.height, view.camera.width) for view in scene.views}
    if len(sizes) > 1:
        raise ValueError(f"scene {scene.scene_id}: views of different sizes {sorted(sizes)}")


def _ask_views(
    teacher: AnyTeacher,
    scene: Scene,
    view_indices: Sequence[int],
    prompts: Sequence[Prompt],
    grid: MaskGrid,
) -> Iterator[tuple[int, ViewAnswers, str]]:
    """Yield the index and answers of each view, and the reason if the teacher failed, else ""."""
    texts = list(dict.fromkeys(prompt.text for prompt in prompts))
    views = [scene.views[index] for index in view_indices]
    images = mapped(read_image, views, min(num_threads(), _IMAGES_AHEAD))
    waiting = iter(view_indices)
    while True:
        at_once = teacher.views_at_once if isinstance(teacher, ManyViewsTeacher) else 1
        indices = list(islice(waiting, max(at_once, 1)))
        if not indices:
            return
        batch = list(islice(images, len(indices)))
        ids = [scene.views[index].view_id for index in indices]
        answers_by_view = _answers_of(teacher, batch, ids, texts, grid)
        for index, (answers, reason) in zip(indices, answers_by_view, strict=True):
            yield index, _as_view(answers, texts, prompts, grid, teacher, reason), reason


def _answers_of(
    teacher: AnyTeacher,
    images: Sequence[Array],
    view_ids: Sequence[str],
    texts: Sequence[str],
    grid: MaskGrid,
) -> list[tuple[Sequence[TeacherAnswer], str]]:
    """Return the answers of each view, and the reason if the teacher failed on it, else "".

    If the teacher fails on a batch of several views, each view is asked separately.
    """
    try:
        if isinstance(teacher, ManyViewsTeacher) and len(images) > 1:
            by_view = teacher.answer_views(teacher.encode_views(images, view_ids), texts)
            if len(by_view) != len(images):
                raise ValueError(f"expected answers on {len(images)} views, got {len(by_view)}")
        else:
            (image,), (view_id,) = images, view_ids
            by_view = [teacher.answer(teacher.encode_view(image, view_id), texts)]
        for answers in by_view:
            _check_answers(answers, len(texts), grid, teacher.embedding_dim)
        return [(answers, "") for answers in by_view]
    except (UserError, MemoryError):
        raise
    except Exception as error:  # noqa: B902 - whatever a teacher raises costs one view only
        if len(images) == 1:
            return [([], f"{type(error).__name__}: {error}"[:_LONGEST_REASON])]
    pairs = zip(images, view_ids, strict=True)
    return [_answers_of(teacher, [image], [id_], texts, grid)[0] for image, id_ in pairs]


def _as_view(
    answers: Sequence[TeacherAnswer],
    texts: Sequence[str],
    prompts: Sequence[Prompt],
    grid: MaskGrid,
    teacher: AnyTeacher,
    reason: str,
) -> ViewAnswers:
    """Arrange a view's answers in rows, one per prompt; all rows fail where there is a reason."""
    dim = teacher.embedding_dim
    if reason:
        failed = TeacherAnswer.without_mask(reason, grid, dim)
        return _as_rows([failed] * len(prompts), grid, dim, FAILED)
    by_text = dict(zip(texts, answers, strict=True))
    return _as_rows([by_text[prompt.text] for prompt in prompts], grid, dim, NO_SEG)


def _check_answers(
    answers: Sequence[TeacherAnswer], num_texts: int, grid: MaskGrid, embedding_dim: int
) -> None:
    if len(answers) != num_texts:
        raise ValueError(f"expected {num_texts} answers, got {len(answers)}")
    for answer in answers:
        num_seg = len(answer.mask_logits)
        if answer.withheld is not None:
            _check_withheld(answer.withheld, f"{answer.text!r}", num_seg, grid, embedding_dim)
        if answer.presence is not None and not 0 <= answer.presence <= 1:
            raise ValueError(f"{answer.text!r}: presence {answer.presence} is not in [0, 1]")
        for array, shape in (
            (answer.mask_logits, (num_seg, grid.height, grid.width)),
            (answer.predicted_iou, (num_seg,)),
            (answer.seg_embeddings, (num_seg, embedding_dim)),
        ):
            if array.shape != shape:
                raise ValueError(f"{answer.text!r}: expected {shape}, got {array.shape}")
            if not np.isfinite(array).all():
                raise ValueError(f"{answer.text!r}: a value is not finite")


def _check_withheld(
    withheld: WithheldMask, where: str, num_seg: int, grid: MaskGrid, embedding_dim: int
) -> None:
    if num_seg:
        raise ValueError(f"{where}: a withheld mask beside {num_seg} masks of [SEG]s")
    expected = (grid.height, grid.width), (embedding_dim,)
    shapes = withheld.mask_logits.shape, withheld.seg_embedding.shape
    if shapes != expected:
        raise ValueError(f"{where}: expected withheld shapes {expected}, got {shapes}")
    values = (withheld.mask_logits, withheld.seg_embedding, withheld.predicted_iou)
    if not all(np.isfinite(value).all() for value in values):
        raise ValueError(f"{where}: a value of the withheld mask is not finite")


def _as_rows(
    answers: Sequence[TeacherAnswer], grid: MaskGrid, embedding_dim: int, without_mask: int
) -> ViewAnswers:
    """Merge the masks of each answer into their union, with mean embedding and mean IoU.

    Without a presence from the teacher, presence is 1 for answers with masks and 0 for others.
    """
    status = np.full(len(answers), without_mask, np.uint8)
    withheld = np.zeros(len(answers), bool)
    presence = np.array([len(answer.mask_logits) > 0 for answer in answers], np.float32)
    logits = np.zeros((len(answers), grid.height, grid.width), np.float32)
    predicted_iou = np.zeros(len(answers), np.float32)
    embeddings = np.zeros((len(answers), embedding_dim), np.float32)
    for row, answer in enumerate(answers):
        if len(answer.mask_logits):
            status[row] = MASK
            logits[row] = answer.mask_logits.max(axis=0)
            predicted_iou[row] = answer.predicted_iou.mean()
            embeddings[row] = answer.seg_embeddings.mean(axis=0)
        elif answer.withheld is not None:
            withheld[row] = True
            logits[row] = answer.withheld.mask_logits
            predicted_iou[row] = answer.withheld.predicted_iou
            embeddings[row] = answer.withheld.seg_embedding
        if answer.presence is not None:
            presence[row] = answer.presence
    texts = tuple(answer.text for answer in answers)
    return ViewAnswers(status, logits, predicted_iou, embeddings, texts, presence, withheld)
