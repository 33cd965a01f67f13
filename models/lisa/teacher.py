"""LISA and LISA++ as a ``models.teacher.Teacher``: a view is encoded once, then asked at will."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.errors import UserError
from models.lisa.answering import Decoded, Prefix, Stop, decode, read_prefix
from models.lisa.checkpoint import LoadedLisa
from models.lisa.images import resized_size, sam_pixels, upsample_masks
from models.lisa.masks import AskedMasks, ask_masks, grid_side
from models.lisa.prompts import (
    TASK_SUFFIXES,
    Conversation,
    QuestionForm,
    build_prompt,
    question_of,
    strip_markers,
)
from models.lisa.tokenizer import IMAGE_TOKEN_ID
from models.teacher import FloatArray, MaskGrid, TeacherAnswer


@dataclass(frozen=True)
class LisaSettings:
    """How LISA is asked.

    Attributes:
        conversation: the prompt's template.
        use_start_end: whether <im_start> and <im_end> stand around the image.
        question_form: how a query becomes a question.
        task_suffix: LISA++'s task, a key of ``TASK_SUFFIXES``, or "" for none.
        best_of_three: take SAM's mask of highest predicted IoU, not LISA's single mask.
        max_new_tokens: the longest answer, from 1 on.
        whole_answer: decode all of an answer, for several masks; else stop at the first.
    """

    conversation: Conversation = "llava_v1"
    use_start_end: bool = True
    question_form: QuestionForm = "auto"
    task_suffix: str = ""
    best_of_three: bool = False
    max_new_tokens: int = 32
    whole_answer: bool = False


@dataclass(frozen=True, eq=False)
class LisaView:
    """What all questions on one image share; ``size`` and ``resized`` are (height, width).

    ``sam_embedding`` (1, C, g, g); ``resized`` is the image's size inside SAM's square.
    """

    view_id: str
    size: tuple[int, int]
    resized: tuple[int, int]
    sam_embedding: Tensor
    prefix: Prefix


@dataclass(frozen=True, eq=False)
class FullAnswer:
    """All that one question brought; n is the number of [SEG]s, 0 included.

    Attributes:
        text: the answer.
        output_ids: prompt and answer, -200 where the image is.
        seg_embedding: (n, C) float32.
        low_res_masks: (n, 1, h, w) float32 logits on SAM's grid.
        iou: (n, 1) float32 predicted IoU, as SAM says it.
        mask_logits: (n, H, W) float32 at the image's size.
        spans: [start, end) of each [SEG] in ``text``.
    """

    text: str
    output_ids: NDArray[np.int64]
    seg_embedding: FloatArray
    low_res_masks: FloatArray
    iou: FloatArray
    mask_logits: FloatArray
    spans: list[tuple[int, int]]


class LisaTeacher:
    """A loaded LISA as a ``Teacher``.

    Raises UserError for settings that the checkpoint cannot serve.
    """

    def __init__(self, loaded: LoadedLisa, settings: LisaSettings, name: str) -> None:
        self._network, self._tokenizer = loaded.network, loaded.tokenizer
        self._transform, self._device = loaded.clip_transform, loaded.device
        self._settings, self._name = settings, name
        if settings.task_suffix and settings.task_suffix not in TASK_SUFFIXES:
            known = ", ".join(TASK_SUFFIXES)
            raise UserError(f"no task {settings.task_suffix!r} of LISA++; there are: {known}")
        if settings.max_new_tokens < 1:
            raise UserError(f"max_new_tokens starts at 1, not {settings.max_new_tokens}")
        if settings.use_start_end and "<im_start>" not in self._tokenizer.added:
            raise UserError("this checkpoint has no <im_start>: set use_start_end to false")
        self._prefix_ids = self._split(self._prompt_ids(""))[0]

    @property
    def name(self) -> str:
        """Short name, as configs spell it."""
        return self._name

    @property
    def embedding_dim(self) -> int:
        """Length C of a [SEG] embedding."""
        return self._network.config.embedding_dim

    def mask_grid(self, height: int, width: int) -> MaskGrid:
        """The grid is SAM's square; the image, its longer side filling it, lies in its top left."""
        sizes = self._network.config
        side = grid_side(self._network)
        rows, columns = (
            side * pixels / sizes.sam_size for pixels in resized_size(height, width, sizes.sam_size)
        )
        return MaskGrid(side, side, (columns, rows))

    @torch.inference_mode()
    def encode_view(self, image: NDArray[np.uint8], view_id: str) -> LisaView:
        """Encode with both towers and read the prompt up to the image; (H, W, 3) uint8 RGB."""
        pixels, resized = sam_pixels(image, self._network.config.sam_size)
        clip_pixels = self._transform(image)[None].to(self._device)
        tokens = self._network.image_tokens(clip_pixels)
        return LisaView(
            view_id,
            (image.shape[0], image.shape[1]),
            resized,
            self._network.sam_embedding(pixels[None].to(self._device)),
            read_prefix(self._network.language_model, self._prefix_ids, tokens),
        )

    @torch.inference_mode()
    def answer(self, view: LisaView, texts: Sequence[str]) -> list[TeacherAnswer]:
        """Answer each query; UserError for one that is longer than the model can read."""
        distinct = list(dict.fromkeys(texts))
        prompts = [self._prompt_ids(self._question(text)) for text in distinct]
        decoded = self._decode(view, prompts, self._settings.whole_answer)
        masks = self._masks(view, decoded)
        answers = {
            text: self._as_answer(view, answer, mask)
            for text, answer, mask in zip(distinct, decoded, masks, strict=True)
        }
        return [answers[text] for text in texts]

    @torch.inference_mode()
    def answers_in_full(self, view: LisaView, texts: Sequence[str]) -> list[FullAnswer]:
        """Answer each query to its end, and keep all there is; errors as of ``answer``."""
        prompts = [self._prompt_ids(self._question(text)) for text in texts]
        decoded = self._decode(view, prompts, whole_answer=True)
        masks = self._masks(view, decoded)
        return [
            self._as_full_answer(view, ids, answer, mask)
            for ids, answer, mask in zip(prompts, decoded, masks, strict=True)
        ]

    def _question(self, text: str) -> str:
        question = question_of(strip_markers(text), self._settings.question_form)
        return question + TASK_SUFFIXES.get(self._settings.task_suffix, "")

    def _prompt_ids(self, question: str) -> list[int]:
        settings = self._settings
        prompt = build_prompt(question, settings.conversation, settings.use_start_end)
        return self._tokenizer.encode(prompt)

    def _split(self, ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """Ids up to the image, it included, and ids after it."""
        cut = ids.index(IMAGE_TOKEN_ID) + 1
        return list(ids[:cut]), list(ids[cut:])

    def _decode(
        self, view: LisaView, prompts: Sequence[Sequence[int]], whole_answer: bool
    ) -> list[Decoded]:
        suffixes = []
        for ids in prompts:
            start, suffix = self._split(ids)
            if tuple(start) != view.prefix.ids:
                raise ValueError("a prompt that does not begin like those its view was read for")
            suffixes.append(suffix)
        stop = Stop(
            self._tokenizer.eos_id,
            self._tokenizer.seg_id,
            self._settings.max_new_tokens,
            at_first_seg=not whole_answer,
        )
        return decode(self._network.language_model, view.prefix, suffixes, stop)

    def _masks(self, view: LisaView, decoded: Sequence[Decoded]) -> list[AskedMasks]:
        best_of_three = self._settings.best_of_three
        return ask_masks(self._network, view.sam_embedding, decoded, best_of_three)

    def _as_answer(self, view: LisaView, decoded: Decoded, masks: AskedMasks) -> TeacherAnswer:
        text = self._tokenizer.decode(decoded.ids)
        if not len(masks.iou):
            grid = self.mask_grid(*view.size)
            return TeacherAnswer.without_mask(text, grid, self.embedding_dim)
        iou = masks.iou.clamp(0, 1).numpy()
        return TeacherAnswer(text, masks.logits.numpy(), iou, masks.embeddings.numpy())

    def _as_full_answer(
        self, view: LisaView, prompt_ids: Sequence[int], decoded: Decoded, masks: AskedMasks
    ) -> FullAnswer:
        text, spans = self._tokenizer.spans(decoded.ids)
        sam_size = self._network.config.sam_size
        logits = upsample_masks(masks.logits, sam_size, view.resized, view.size)
        return FullAnswer(
            text,
            np.array([*prompt_ids, *decoded.ids], np.int64),
            masks.embeddings.numpy(),
            masks.logits[:, None].numpy(),
            masks.iou[:, None].numpy(),
            logits.numpy(),
            spans,
        )
