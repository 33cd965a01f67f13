"""Stage: ask a 2D teacher every query of a scene on every view and keep all its answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data.artifacts.teacher import FAILED, MASK, NO_SEG, TeacherWriter, ViewAnswers
from data.errors import UserError
from data.progress import Progress, silent
from data.types import Prompt, Scene, View
from models.teacher import AnyTeacher, MaskGrid, TeacherAnswer, Unsaid
from stages.view_images import read_image

_LOG = logging.getLogger(__name__)
_LONGEST_REASON = 500


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

    Each view is encoded once and each distinct wording is asked once. A view on which the
    teacher raises, or answers nonsense, is stored as failed with the reason, logged and
    counted; a later attempt of the same unfinished job tries it again.

    Raises DataError for an image that cannot be decoded or does not fit its camera, UserError
    when the teacher failed on every view, ValueError for prompts of another scene or views of
    different sizes.
    """
    _check(scene, prompts)
    todo = writer.missing_views()
    failures: list[tuple[str, str]] = []
    if todo or not writer.begun:
        teacher = make_teacher()
        camera = scene.views[0].camera
        grid = teacher.mask_grid(camera.height, camera.width)
        writer.begin((grid.height, grid.width), grid.extent, teacher.embedding_dim)
        done = len(scene.views) - len(todo)
        for step, index in enumerate(todo):
            progress(done + step, len(scene.views))
            answers, reason = _ask_view(teacher, scene.views[index], prompts, grid)
            writer.write_view(index, answers)
            if reason:
                failures.append((scene.views[index].view_id, reason))
                _LOG.warning("%s view %s: %s", scene.scene_id, *failures[-1])
        progress(len(scene.views), len(scene.views))
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


def _ask_view(
    teacher: AnyTeacher, view: View, prompts: Sequence[Prompt], grid: MaskGrid
) -> tuple[ViewAnswers, str]:
    """All answers on one view and, if the teacher failed on it, why."""
    image = read_image(view)
    texts = list(dict.fromkeys(prompt.text for prompt in prompts))
    try:
        given = teacher.answer(teacher.encode_view(image, view.view_id), texts)
        _check_answers(given, len(texts), grid, teacher.embedding_dim)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # noqa: B902 - whatever a teacher raises costs one view only
        reason = f"{type(error).__name__}: {error}"[:_LONGEST_REASON]
        failed = TeacherAnswer.without_mask(reason, grid, teacher.embedding_dim)
        return _as_rows([failed] * len(prompts), grid, teacher.embedding_dim, FAILED), reason
    by_text = dict(zip(texts, given, strict=True))
    rows = [by_text[prompt.text] for prompt in prompts]
    return _as_rows(rows, grid, teacher.embedding_dim, NO_SEG), ""


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
