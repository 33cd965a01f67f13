"""Stage: ask a 2D teacher every query of a scene on every view and keep all its answers."""

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
from models.teacher import AnyTeacher, ManyViewsTeacher, MaskGrid, TeacherAnswer, Unsaid
from stages.scene.view_images import read_image

_LOG = logging.getLogger(__name__)
_LONGEST_REASON = 500
_IMAGES_AHEAD = 4
"""Images read while the views before them are asked, at most; no more than there are threads."""


@dataclass(frozen=True)
class TeacherReport:
    """What a scene's cache holds, counted over (view, query), and the views that failed."""

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
    """Fill ``writer`` with the answers it lacks; the teacher is made only if there are any.

    Each view is encoded once and each distinct wording is asked once; images are read ahead where
    there is a thread to spare, and teachers that can are given several views at once. A view on
    which the teacher raises, or answers nonsense, is stored as failed with the reason, logged and
    counted; a later attempt of the same unfinished job tries it again.

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
    todo = writer.missing_views()
    failures: list[tuple[str, str]] = []
    if todo or not writer.begun:
        teacher = make_teacher()
        camera = scene.views[0].camera
        grid = teacher.mask_grid(camera.height, camera.width)
        writer.begin((grid.height, grid.width), grid.extent, teacher.embedding_dim)
        done = len(scene.views) - len(todo)
        progress(done, len(scene.views))
        for index, answers, reason in _ask_views(teacher, scene, todo, prompts, grid):
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
    todo: Sequence[int],
    prompts: Sequence[Prompt],
    grid: MaskGrid,
) -> Iterator[tuple[int, ViewAnswers, str]]:
    """Index, answers and, if the teacher failed on it, why, of each view of ``todo``."""
    texts = list(dict.fromkeys(prompt.text for prompt in prompts))
    views = [scene.views[index] for index in todo]
    images = mapped(read_image, views, min(num_threads(), _IMAGES_AHEAD))
    waiting = iter(todo)
    while True:
        at_once = teacher.views_at_once if isinstance(teacher, ManyViewsTeacher) else 1
        indices = list(islice(waiting, max(at_once, 1)))
        if not indices:
            return
        shown = list(islice(images, len(indices)))
        ids = [scene.views[index].view_id for index in indices]
        given = _answers_of(teacher, shown, ids, texts, grid)
        for index, (answers, reason) in zip(indices, given, strict=True):
            yield index, _as_view(answers, texts, prompts, grid, teacher, reason), reason


def _answers_of(
    teacher: AnyTeacher,
    images: Sequence[Array],
    view_ids: Sequence[str],
    texts: Sequence[str],
    grid: MaskGrid,
) -> list[tuple[Sequence[TeacherAnswer], str]]:
    """Per view, its answers and, if the teacher failed on it, why.

    Where it fails on several views together, each is asked by itself.
    """
    try:
        if isinstance(teacher, ManyViewsTeacher) and len(images) > 1:
            given = teacher.answer_views(teacher.encode_views(images, view_ids), texts)
            if len(given) != len(images):
                raise ValueError(f"expected answers on {len(images)} views, got {len(given)}")
        else:
            (image,), (view_id,) = images, view_ids
            given = [teacher.answer(teacher.encode_view(image, view_id), texts)]
        for answers in given:
            _check_answers(answers, len(texts), grid, teacher.embedding_dim)
        return [(answers, "") for answers in given]
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
    """What the cache takes: a row per prompt, all of them failed where there is a reason."""
    dim = teacher.embedding_dim
    if reason:
        failed = TeacherAnswer.without_mask(reason, grid, dim)
        return _as_rows([failed] * len(prompts), grid, dim, FAILED)
    by_text = dict(zip(texts, answers, strict=True))
    return _as_rows([by_text[prompt.text] for prompt in prompts], grid, dim, NO_SEG)


def _check_answers(
    answers: Sequence[TeacherAnswer], wanted: int, grid: MaskGrid, embedding_dim: int
) -> None:
    if len(answers) != wanted:
        raise ValueError(f"expected {wanted} answers, got {len(answers)}")
    for answer in answers:
        num_seg = len(answer.mask_logits)
        if answer.unsaid is not None:
            _check_unsaid(answer.unsaid, f"{answer.text!r}", num_seg, grid, embedding_dim)
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


def _check_unsaid(
    unsaid: Unsaid, where: str, num_seg: int, grid: MaskGrid, embedding_dim: int
) -> None:
    if num_seg:
        raise ValueError(f"{where}: an unsaid mask beside {num_seg} said ones")
    wanted = (grid.height, grid.width), (embedding_dim,)
    found = unsaid.mask_logits.shape, unsaid.seg_embedding.shape
    if found != wanted:
        raise ValueError(f"{where}: expected unsaid {wanted}, got {found}")
    values = (unsaid.mask_logits, unsaid.seg_embedding, unsaid.predicted_iou)
    if not all(np.isfinite(value).all() for value in values):
        raise ValueError(f"{where}: an unsaid value is not finite")


def _as_rows(
    answers: Sequence[TeacherAnswer], grid: MaskGrid, embedding_dim: int, without_mask: int
) -> ViewAnswers:
    """Several masks of one answer become their union, with mean embedding and mean IoU.

    A teacher that cannot tell the presence counts as sure of what it said.
    """
    status = np.full(len(answers), without_mask, np.uint8)
    unsaid = np.zeros(len(answers), bool)
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
        elif answer.unsaid is not None:
            unsaid[row] = True
            logits[row] = answer.unsaid.mask_logits
            predicted_iou[row] = answer.unsaid.predicted_iou
            embeddings[row] = answer.unsaid.seg_embedding
        if answer.presence is not None:
            presence[row] = answer.presence
    texts = tuple(answer.text for answer in answers)
    return ViewAnswers(status, logits, predicted_iou, embeddings, texts, presence, unsaid)
