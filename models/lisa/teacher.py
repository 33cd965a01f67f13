"""LISA and LISA++ as a ``models.teacher.Teacher`` on images and as an encoder of texts.

The language model was trained with images and decodes garbage without one. For texts alone, the
mean of the tokens of a few images stands in for the image: nearly all answers stay the same, and
the [SEG] embedding depends on the text but on no image of the queried scene.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.errors import UserError
from models.lisa.checkpoint import LoadedLisa, Refusal
from models.lisa.generation import (
    Decoded,
    Prefix,
    Stop,
    decode,
    read_prefix,
    read_prefixes,
    views_at_once,
)
from models.lisa.images import (
    SegMasks,
    decode_seg_masks,
    decode_withheld_masks,
    grid_side,
    resized_size,
    sam_pixels,
    seg_embeddings,
    upsample_masks,
)
from models.lisa.prompts import (
    TASK_SUFFIXES,
    Conversation,
    QuestionForm,
    build_prompt,
    question_of,
    strip_markers,
)
from models.lisa.tokenizer import IMAGE_TOKEN_ID, LisaTokenizer
from models.teacher import FloatArray, MaskGrid, TeacherAnswer, WithheldMask


@dataclass(frozen=True)
class LisaSettings:
    """Prompt and decoding settings of LISA.

    Attributes:
        conversation: template of the prompt.
        use_start_end: put the image between <im_start> and <im_end>.
        question_form: template that turns a query into a question.
        task_suffix: task of LISA++, a key of ``TASK_SUFFIXES``, or "" for none.
        best_of_three: use SAM's mask of the highest predicted IoU, not its single mask.
        max_new_tokens: most tokens of an answer, at least 1.
        whole_answer: decode the whole answer with all its masks; else stop at the first [SEG].
    """

    conversation: Conversation = "llava_v1"
    use_start_end: bool = True
    question_form: QuestionForm = "auto"
    task_suffix: str = ""
    best_of_three: bool = False
    max_new_tokens: int = 32
    whole_answer: bool = False


class Questions:
    """Turns queries into the prompts and token ids on which a checkpoint was trained.

    ``prefix_ids`` are the ids that all prompts begin with, up to and including the image.

    Raises UserError for settings that the checkpoint does not support.
    """

    def __init__(
        self, tokenizer: LisaTokenizer, settings: LisaSettings, refusal: Refusal | None = None
    ) -> None:
        self._tokenizer, self._settings, self._refusal = tokenizer, settings, refusal
        if settings.task_suffix and settings.task_suffix not in TASK_SUFFIXES:
            tasks = ", ".join(TASK_SUFFIXES)
            raise UserError(f"no task {settings.task_suffix!r} of LISA++; there are: {tasks}")
        if settings.max_new_tokens < 1:
            raise UserError(f"max_new_tokens starts at 1, not {settings.max_new_tokens}")
        if settings.use_start_end and "<im_start>" not in tokenizer.added:
            raise UserError("this checkpoint has no <im_start>: set use_start_end to false")
        self.prefix_ids = split_at_image(self._ids_of(""))[0]

    def prompt_ids(self, text: str) -> list[int]:
        """Return the prompt's ids for the query ``text``, with IMAGE_TOKEN_ID for the image."""
        question = question_of(strip_markers(text), self._settings.question_form)
        return self._ids_of(question + TASK_SUFFIXES.get(self._settings.task_suffix, ""))

    def stop(self, at_first_seg: bool) -> Stop:
        """Return the stopping rule of answers."""
        most = self._settings.max_new_tokens
        rule = self._tokenizer.eos_id, self._tokenizer.seg_id, most, at_first_seg
        if self._refusal is None:
            return Stop(*rule)
        first = self._tokenizer.encode_part(self._refusal.words, bos=False)[0]
        return Stop(*rule, first, self._refusal.least)

    def _ids_of(self, question: str) -> list[int]:
        settings = self._settings
        prompt = build_prompt(question, settings.conversation, settings.use_start_end)
        return self._tokenizer.encode(prompt)


def split_at_image(ids: Sequence[int]) -> tuple[list[int], list[int]]:
    """Split ids after the image: ids up to and including IMAGE_TOKEN_ID, and the rest."""
    cut = ids.index(IMAGE_TOKEN_ID) + 1
    return list(ids[:cut]), list(ids[cut:])


@dataclass(frozen=True, eq=False)
class LisaView:
    """An encoded image, shared by all questions on it.

    ``size`` is the image's (height, width), ``resized`` its (height, width) inside SAM's square,
    both in pixels; ``sam_embedding`` is (1, C, g, g).
    """

    view_id: str
    size: tuple[int, int]
    resized: tuple[int, int]
    sam_embedding: Tensor
    prefix: Prefix


@dataclass(frozen=True, eq=False)
class FullAnswer:
    """The complete output for one question; n is the number of [SEG]s and may be 0.

    Attributes:
        text: the answer.
        output_ids: ids of prompt and answer, -200 at the image.
        seg_embedding: (n, C) float32.
        low_res_masks: (n, 1, h, w) float32 logits on SAM's grid.
        iou: (n, 1) float32 predicted IoU of SAM, not clamped.
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
    """A loaded LISA as a ``Teacher``, a ``FeatureTeacher`` and a ``ManyViewsTeacher``.

    Raises UserError for settings that the checkpoint does not support.
    """

    def __init__(self, loaded: LoadedLisa, settings: LisaSettings, name: str) -> None:
        self.loaded, self.settings = loaded, settings
        self._network, self._tokenizer = loaded.network, loaded.tokenizer
        self._transform, self._device = loaded.clip_transform, loaded.device
        self._name = name
        self._questions = Questions(loaded.tokenizer, settings, loaded.refusal)

    @property
    def name(self) -> str:
        """Short name, as configs spell it."""
        return self._name

    @property
    def embedding_dim(self) -> int:
        """Length C of a [SEG] embedding."""
        return self._network.config.embedding_dim

    def mask_grid(self, height: int, width: int) -> MaskGrid:
        """Return SAM's square grid; the image fills its longer side from the top left corner."""
        return self._grid(grid_side(self._network), height, width)

    def feature_grid(self, height: int, width: int) -> MaskGrid:
        """Return the grid of ``image_features``: the square of ``mask_grid`` in larger cells."""
        return self._grid(self._network.config.sam_grid, height, width)

    def _grid(self, side: int, height: int, width: int) -> MaskGrid:
        sam_size = self._network.config.sam_size
        rows, columns = (
            side * pixels / sam_size for pixels in resized_size(height, width, sam_size)
        )
        return MaskGrid(side, side, (columns, rows))

    @torch.inference_mode()
    def image_features(self, image: NDArray[np.uint8]) -> FloatArray:
        """Encode an image (H, W, 3) uint8 RGB by SAM alone: (C, h, w) float32."""
        pixels, _ = sam_pixels(image, self._network.config.sam_size)
        embedding = self._network.sam_embedding(pixels[None].to(self._device))
        features: FloatArray = embedding[0].float().cpu().numpy()
        return features

    @property
    def views_at_once(self) -> int:
        """Batch size in views for ``encode_views`` and ``answer_views``."""
        return views_at_once(self._network.config, self._device)

    def encode_view(self, image: NDArray[np.uint8], view_id: str) -> LisaView:
        """Encode an image (H, W, 3) uint8 RGB with both towers and read the prompt's prefix."""
        return self.encode_views([image], [view_id])[0]

    @torch.inference_mode()
    def encode_views(
        self, images: Sequence[NDArray[np.uint8]], view_ids: Sequence[str]
    ) -> list[LisaView]:
        """Encode several images, which may differ in size, in one batch."""
        squares, resized = zip(
            *(sam_pixels(image, self._network.config.sam_size) for image in images), strict=True
        )
        clip_pixels = torch.stack([self._transform(image) for image in images])
        tokens = self._network.image_tokens(clip_pixels.to(self._device))
        embeddings = self._network.sam_embedding(torch.stack(squares).to(self._device))
        prefixes = read_prefixes(self._network.language_model, self._questions.prefix_ids, tokens)
        return [
            LisaView(view_id, (image.shape[0], image.shape[1]), size, embedding[None], prefix)
            for view_id, image, size, embedding, prefix in zip(
                view_ids, images, resized, embeddings, prefixes, strict=True
            )
        ]

    def answer(self, view: LisaView, texts: Sequence[str]) -> list[TeacherAnswer]:
        """Answer each query; UserError for a query that exceeds the model's positions."""
        return self.answer_views([view], texts)[0]

    @torch.inference_mode()
    def answer_views(
        self, views: Sequence[LisaView], texts: Sequence[str]
    ) -> list[list[TeacherAnswer]]:
        """Answer each query on each view; raises UserError like ``answer``."""
        distinct = list(dict.fromkeys(texts))
        prompts = [self._questions.prompt_ids(text) for text in distinct]
        decoded = self._decode(views, prompts, self.settings.whole_answer)
        return [
            self._as_answers(view, dict(zip(distinct, answers, strict=True)), texts)
            for view, answers in zip(views, decoded, strict=True)
        ]

    def _as_answers(
        self, view: LisaView, decoded: Mapping[str, Decoded], texts: Sequence[str]
    ) -> list[TeacherAnswer]:
        best_of_three = self.settings.best_of_three
        masks = decode_withheld_masks(
            self._network, view.sam_embedding, list(decoded.values()), best_of_three
        )
        answers = {
            text: self._as_answer(view, answer, mask)
            for (text, answer), mask in zip(decoded.items(), masks, strict=True)
        }
        return [answers[text] for text in texts]

    @torch.inference_mode()
    def answers_in_full(self, view: LisaView, texts: Sequence[str]) -> list[FullAnswer]:
        """Answer each query to the end of its text; raises UserError like ``answer``."""
        prompts = [self._questions.prompt_ids(text) for text in texts]
        (decoded,) = self._decode([view], prompts, whole_answer=True)
        masks = self._masks(view, decoded)
        return [
            self._as_full_answer(view, ids, answer, mask)
            for ids, answer, mask in zip(prompts, decoded, masks, strict=True)
        ]

    def _decode(
        self, views: Sequence[LisaView], prompts: Sequence[Sequence[int]], whole_answer: bool
    ) -> list[list[Decoded]]:
        """Decode one answer per view and prompt."""
        suffixes = []
        for ids in prompts:
            start, suffix = split_at_image(ids)
            if any(tuple(start) != view.prefix.ids for view in views):
                raise ValueError("a prompt does not begin with the prefix of its encoded view")
            suffixes.append(suffix)
        stop = self._questions.stop(at_first_seg=not whole_answer)
        prefixes = [view.prefix for view in views for _ in prompts]
        decoded = decode(self._network.language_model, prefixes, suffixes * len(views), stop)
        count = len(prompts)
        return [decoded[start * count : (start + 1) * count] for start in range(len(views))]

    def _masks(self, view: LisaView, decoded: Sequence[Decoded]) -> list[SegMasks]:
        best_of_three = self.settings.best_of_three
        return decode_seg_masks(self._network, view.sam_embedding, decoded, best_of_three)

    def _as_answer(self, view: LisaView, decoded: Decoded, masks: SegMasks) -> TeacherAnswer:
        text = self._tokenizer.decode(decoded.ids)
        iou, logits = masks.iou.clamp(0, 1).numpy(), masks.logits.numpy()
        embeddings = masks.embeddings.numpy()
        if decoded.seg_states:
            return TeacherAnswer(text, logits, iou, embeddings, decoded.presence)
        grid, dim = self.mask_grid(*view.size), self.embedding_dim
        withheld = WithheldMask(logits[0], float(iou[0]), embeddings[0])
        return TeacherAnswer.without_mask(text, grid, dim, decoded.presence, withheld)

    def _as_full_answer(
        self, view: LisaView, prompt_ids: Sequence[int], decoded: Decoded, masks: SegMasks
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


class LisaWords:
    """A loaded LISA as an encoder of texts.

    Raises UserError for settings that the checkpoint does not support.
    """

    def __init__(self, loaded: LoadedLisa, settings: LisaSettings) -> None:
        self._network, self._transform = loaded.network, loaded.clip_transform
        self._device, self._refusal = loaded.device, loaded.refusal
        self._questions = Questions(loaded.tokenizer, settings, loaded.refusal)

    @property
    def dim(self) -> int:
        """Length D of an encoded text, equal to the length of a [SEG] embedding."""
        return self._network.config.embedding_dim

    @torch.inference_mode()
    def image_tokens(self, image: NDArray[np.uint8]) -> Tensor:
        """Encode ``image`` (H, W, 3) uint8 RGB as the language model's tokens.

        Returns (T, C) float32 on the CPU.
        """
        pixels = self._transform(image)[None].to(self._device)
        return self._network.image_tokens(pixels)[0].float().cpu()

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], mean_tokens: Tensor) -> NDArray[np.float32]:
        """Return the [SEG] embeddings (n, D) float32 of ``texts``; see ``encode_and_judge``."""
        return self.encode_and_judge(texts, mean_tokens)[0]

    @torch.inference_mode()
    def encode_and_judge(
        self, texts: Sequence[str], mean_tokens: Tensor
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return [SEG] embeddings (n, D) and how well ``texts`` are known, (n,), float32.

        The answers are decoded with ``mean_tokens`` (T, C), the mean of ``image_tokens`` over some
        images. For an answer without [SEG], the state with the largest probability of [SEG] is
        used. A text that the model refuses in any image is known by at most one half, every text
        by 1 where the checkpoint refuses nothing.

        Raises:
            UserError: a text exceeds the model's positions.
            ValueError: ``mean_tokens`` are of another width than the language model.
        """
        hidden = self._network.config.llama.hidden_size
        if mean_tokens.ndim != 2 or mean_tokens.shape[1] != hidden:
            raise ValueError(f"mean_tokens must be (T, {hidden}), got {tuple(mean_tokens.shape)}")
        model, questions = self._network.language_model, self._questions
        prefix = read_prefix(model, questions.prefix_ids, mean_tokens[None].to(self._device))
        distinct = list(dict.fromkeys(texts))
        suffixes = [split_at_image(questions.prompt_ids(text))[1] for text in distinct]
        decoded = decode(
            model, [prefix] * len(suffixes), suffixes, questions.stop(at_first_seg=True)
        )
        embeddings = seg_embeddings(self._network, [_seg_state(answer) for answer in decoded])
        rows = {text: row for row, text in enumerate(distinct)}
        chosen = [rows[text] for text in texts]
        known = np.array([self._known(answer) for answer in decoded], np.float32)
        return embeddings.float().cpu().numpy()[chosen], known[chosen]

    def _known(self, answer: Decoded) -> float:
        """Return 1 minus the refusal's probability, its odds shifted to 1 where it begins."""
        if self._refusal is None:
            return 1.0
        least, strange = self._refusal.least, answer.strangeness
        if least >= 1 or strange >= 1:
            return 1.0 - strange
        against = strange / (1 - strange) * (1 - least) / least
        return 1 / (1 + against)


def _seg_state(decoded: Decoded) -> Tensor:
    """Return the state (hidden,) that predicted [SEG], or where [SEG] was most likely."""
    state = decoded.seg_states[0] if decoded.seg_states else decoded.nearest
    if state is None:
        raise ValueError("an answer without a single token")
    return state
