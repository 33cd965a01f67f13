"""LISA and LISA++ as a ``models.teacher.Teacher``: a view is encoded once, then asked at will."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.lisa.answering import Decoded, decode
from models.lisa.batching import views_at_once
from models.lisa.checkpoint import LoadedLisa
from models.lisa.images import resized_size, sam_pixels, upsample_masks
from models.lisa.masks import AskedMasks, ask_masks, ask_unsaid, grid_side
from models.lisa.prefix import Prefix, read_prefixes
from models.lisa.questions import LisaSettings, Questions, split_at_image
from models.teacher import FloatArray, MaskGrid, TeacherAnswer, Unsaid


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
    """A loaded LISA as a ``Teacher``; ``loaded`` and ``settings`` are what it was made of.

    Raises UserError for settings that the checkpoint cannot serve.
    """

    def __init__(self, loaded: LoadedLisa, settings: LisaSettings, name: str) -> None:
        self.loaded, self.settings = loaded, settings
        self._network, self._tokenizer = loaded.network, loaded.tokenizer
        self._transform, self._device = loaded.clip_transform, loaded.device
        self._name = name
        self._questions = Questions(loaded.tokenizer, settings)

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
        return self._grid(grid_side(self._network), height, width)

    def feature_grid(self, height: int, width: int) -> MaskGrid:
        """The grid of ``image_features``: the same square as ``mask_grid``'s in larger cells."""
        return self._grid(self._network.config.sam_grid, height, width)

    def _grid(self, side: int, height: int, width: int) -> MaskGrid:
        sam_size = self._network.config.sam_size
        rows, columns = (
            side * pixels / sam_size for pixels in resized_size(height, width, sam_size)
        )
        return MaskGrid(side, side, (columns, rows))

    @torch.inference_mode()
    def image_features(self, image: NDArray[np.uint8]) -> FloatArray:
        """Embed a picture (H, W, 3) uint8 RGB with SAM alone: (C, h, w) on ``feature_grid``."""
        pixels, _ = sam_pixels(image, self._network.config.sam_size)
        embedding = self._network.sam_embedding(pixels[None].to(self._device))
        features: FloatArray = embedding[0].float().cpu().numpy()
        return features

    @property
    def views_at_once(self) -> int:
        """Views to give to ``encode_views`` and ``answer_views`` together."""
        return views_at_once(self._network.config, self._device)

    def encode_view(self, image: NDArray[np.uint8], view_id: str) -> LisaView:
        """Encode with both towers and read the prompt up to the image; (H, W, 3) uint8 RGB."""
        return self.encode_views([image], [view_id])[0]

    @torch.inference_mode()
    def encode_views(
        self, images: Sequence[NDArray[np.uint8]], view_ids: Sequence[str]
    ) -> list[LisaView]:
        """The same for several images, which may differ in size, together."""
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
        """Answer each query; UserError for one that is longer than the model can read."""
        return self.answer_views([view], texts)[0]

    @torch.inference_mode()
    def answer_views(
        self, views: Sequence[LisaView], texts: Sequence[str]
    ) -> list[list[TeacherAnswer]]:
        """Answer each query on each view; errors as of ``answer``."""
        distinct = list(dict.fromkeys(texts))
        prompts = [self._questions.prompt_ids(text) for text in distinct]
        decoded = self._decode(views, prompts, self.settings.whole_answer)
        return [
            self._as_answers(view, dict(zip(distinct, of_view, strict=True)), texts)
            for view, of_view in zip(views, decoded, strict=True)
        ]

    def _as_answers(
        self, view: LisaView, decoded: Mapping[str, Decoded], texts: Sequence[str]
    ) -> list[TeacherAnswer]:
        best_of_three = self.settings.best_of_three
        ones = list(decoded.values())
        masks = ask_unsaid(self._network, view.sam_embedding, ones, best_of_three)
        answers = {
            text: self._as_answer(view, one, mask)
            for (text, one), mask in zip(decoded.items(), masks, strict=True)
        }
        return [answers[text] for text in texts]

    @torch.inference_mode()
    def answers_in_full(self, view: LisaView, texts: Sequence[str]) -> list[FullAnswer]:
        """Answer each query to its end, and keep all there is; errors as of ``answer``."""
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
        """Per view, one answer per prompt."""
        suffixes = []
        for ids in prompts:
            start, suffix = split_at_image(ids)
            if any(tuple(start) != view.prefix.ids for view in views):
                raise ValueError("a prompt that does not begin like those its view was read for")
            suffixes.append(suffix)
        stop = self._questions.stop(at_first_seg=not whole_answer)
        prefixes = [view.prefix for view in views for _ in prompts]
        decoded = decode(self._network.language_model, prefixes, suffixes * len(views), stop)
        count = len(prompts)
        return [decoded[start * count : (start + 1) * count] for start in range(len(views))]

    def _masks(self, view: LisaView, decoded: Sequence[Decoded]) -> list[AskedMasks]:
        best_of_three = self.settings.best_of_three
        return ask_masks(self._network, view.sam_embedding, decoded, best_of_three)

    def _as_answer(self, view: LisaView, decoded: Decoded, masks: AskedMasks) -> TeacherAnswer:
        text = self._tokenizer.decode(decoded.ids)
        iou, logits = masks.iou.clamp(0, 1).numpy(), masks.logits.numpy()
        embeddings = masks.embeddings.numpy()
        if decoded.seg_states:
            return TeacherAnswer(text, logits, iou, embeddings, decoded.presence)
        grid, dim = self.mask_grid(*view.size), self.embedding_dim
        unsaid = Unsaid(logits[0], float(iou[0]), embeddings[0])
        return TeacherAnswer.without_mask(text, grid, dim, decoded.presence, unsaid)

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
