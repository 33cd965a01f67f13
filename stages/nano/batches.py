"""Training batches of LISA-nano: pictures, questions packed into sequences, and answers.

``AnswerFormat`` encodes questions and answers as token ids and packs them; ``NanoData`` draws
pictures and questions and renders the targets of all losses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from data.rooms.catalog import STRUCTURE
from data.rooms.snapshots import NOTHING, KnownObject, read_snapshots
from data.rooms.teacher_questions import (
    COLORS,
    KINDS,
    PROMPTED,
    QUERY_LABELS,
    PictureObjects,
    ViewQuery,
    sample_view_query,
)
from data.rooms.teacher_sentences import loose_sentence, sentence_of
from data.types import Array
from models.lisa.images import ClipTransform
from models.lisa.prompts import IMAGE_MARKER, QuestionForm, build_prompt, question_of
from models.lisa.tokenizer import IMAGE_TOKEN_ID, LisaTokenizer
from models.lisa.trainee import CELLS, CLIP_SIZE, PATCH, SAM_SIZE

UNKNOWN = -1
_FORMS: tuple[QuestionForm, ...] = ("raw", "raw", "sentence", "auto")
_WORD_NOISE = 0.02
_MULTIPLE = 8


@dataclass(frozen=True, eq=False)
class Packed:
    """Sequences of B pictures with K questions each, S tokens long, all int64.

    ``ids``, ``segments`` and ``positions`` (B, S) are those of ``models.lisa.trainee.Sequences``.
    ``targets`` (B, S) are the next tokens inside answers, else ``UNKNOWN``. ``decisions`` (B, S)
    are 1 where the next token decides between a mask and none; ``ask_at`` (B, K) are the positions
    of these states, which prompt the masks.
    """

    ids: Array
    segments: Array
    positions: Array
    targets: Array
    decisions: Array
    ask_at: Array


class AnswerFormat:
    """Encodes LISA-nano's questions and answers as token ids."""

    def __init__(self, tokenizer: LisaTokenizer) -> None:
        self.tokenizer = tokenizer
        ids = tokenizer.encode(build_prompt("", "llava_v1", True))
        self.prefix = ids[: ids.index(IMAGE_TOKEN_ID)]
        self._answers: dict[tuple[str, bool], list[int]] = {}
        self._deciding = {tokenizer.seg_id, tokenizer.encode_part("not", bos=False)[0]}
        self._words = (259, tokenizer.added["<im_patch>"])

    def question(self, text: str, form: QuestionForm) -> list[int]:
        """Encode the prompt after the image, up to the beginning of the answer."""
        prompt = build_prompt(question_of(text, form), "llava_v1", True)
        return self.tokenizer.encode_part(prompt.split(IMAGE_MARKER)[1], bos=False)

    def noisy_question(self, text: str, rng: np.random.Generator) -> list[int]:
        """Encode the question in a random form, with some tokens replaced by random words."""
        ids = self.question(text, _FORMS[int(rng.integers(len(_FORMS)))])
        for i in np.flatnonzero(rng.random(len(ids)) < _WORD_NOISE):
            if 0 < i < len(ids) - 2:  # The image's end and "ASSISTANT:" are kept.
                ids[int(i)] = int(rng.integers(*self._words))
        return ids

    def answer(self, name: str, shown: bool) -> list[int]:
        """Encode ``It is the <name>, [SEG].`` or ``It is the <name>, not in this view.``."""
        key = name, shown
        if key not in self._answers:
            text = f"It is the {name}, " + ("[SEG]." if shown else "not in this view.")
            ids = self.tokenizer.encode_part(text, bos=False)
            self._answers[key] = [*ids, self.tokenizer.eos_id]
        return self._answers[key]

    def decision(self, answer: Sequence[int]) -> int:
        """Return the position in an answer of the token that decides about the mask."""
        return next(i for i, token in enumerate(answer) if token in self._deciding)

    def pack(self, pictures: Sequence[Sequence[tuple[list[int], list[int]]]]) -> Packed:
        """Pack the (question, answer) pairs of each picture, padded to the longest sequence."""
        longest = max(sum(len(q) + len(a) for q, a in pairs) for pairs in pictures)
        longest = -(-longest // _MULTIPLE) * _MULTIPLE
        shape = len(pictures), longest
        ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        segments, targets = np.full(shape, UNKNOWN), np.full(shape, UNKNOWN)
        decisions = np.zeros(shape, np.int64)
        ask_at = np.zeros((len(pictures), len(pictures[0])), np.int64)
        for row, pairs in enumerate(pictures):
            start = 0
            for k, (question, answer) in enumerate(pairs):
                end = start + len(question) + len(answer)
                ids[row, start:end] = [*question, *answer]
                segments[row, start:end] = k
                positions[row, start:end] = np.arange(end - start)
                first = start + len(question) - 1
                targets[row, first : end - 1] = answer
                ask_at[row, k] = first + self.decision(answer)
                decisions[row, ask_at[row, k]] = 1
                start = end
        return Packed(ids, segments, positions, targets, decisions, ask_at)


LABEL_IDS: Mapping[str, int] = {label: i for i, label in enumerate(QUERY_LABELS)}
COLOR_IDS: Mapping[str, int] = {color: i + 1 for i, color in enumerate(COLORS)}
NO_COLOR = 0
_CELL = PATCH // CELLS
_SIDE = CLIP_SIZE // PATCH
_SAMPLES = 4
_COUNTED = 2000
_SAM_STATS = torch.tensor([[123.675, 116.28, 103.53], [58.395, 57.12, 57.375]])
_CLIP_STATS = 255 * torch.tensor([ClipTransform().mean, ClipTransform().std])


@dataclass(frozen=True)
class Asking:
    """Distribution and wording of questions.

    ``kinds`` are weights of the kinds of questions; ``structure`` is the weight of floor, ceiling
    and walls, where other labels have 1; ``loosely`` draws freer wordings.
    """

    kinds: Mapping[str, float]
    structure: float = 0.2
    loosely: bool = False


JOINT = Asking(KINDS)


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs and targets of one step: B pictures of h x w mask cells, K questions each, S tokens.

    ``sam`` (B, 3, s, s) and ``clip`` (B, 3, c, c) are normalised pixels; ``paint`` (B, 3, h, w)
    mean colours in 0..1; ``cells`` (B, h, w) label + 1 of each cell, 0 for none; ``patches``
    (B, N, labels + 1) shares of labels in CLIP's patches; ``in_view`` (B, labels) 1, 0 or
    ``UNKNOWN``; ``masks`` (B, K, h, w) the share of each cell inside the target; ``shown`` (B, K)
    whether the target is in view; ``labels`` (B, K), ``UNKNOWN`` for a stranger, and ``colors``
    (B, K) those of the question;
    ``seen_colors`` (B, K) the target's colour, ``NO_COLOR`` if unclear; ``prompted`` (B, K)
    whether label and colour determine the target; ``ids`` to ``ask_at`` are those of ``Packed``.
    """

    sam: Tensor
    clip: Tensor
    paint: Tensor
    cells: Tensor
    patches: Tensor
    in_view: Tensor
    masks: Tensor
    shown: Tensor
    labels: Tensor
    colors: Tensor
    seen_colors: Tensor
    prompted: Tensor
    ids: Tensor
    segments: Tensor
    positions: Tensor
    targets: Tensor
    decisions: Tensor
    ask_at: Tensor


class NanoData:
    """Draws batches from memory-mapped shards of labelled pictures."""

    def __init__(self, folders: Sequence[Path], answers: AnswerFormat) -> None:
        self._shards = [read_snapshots(folder) for folder in folders]
        self._starts = np.cumsum([0, *(len(shard) for shard in self._shards)])
        self._answers = answers
        self._counts = self._count_labels()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def picture(self, row: int) -> tuple[Array, Array, Sequence[KnownObject]]:
        """Return image (H, W, 3) uint8, object ids (H, W) and objects of one picture."""
        shard = int(np.searchsorted(self._starts, row, side="right")) - 1
        snapshots, local = self._shards[shard], row - int(self._starts[shard])
        objects = snapshots.rooms[int(snapshots.room_of[local])]
        return snapshots.images[local], snapshots.object_ids[local], objects

    def _count_labels(self) -> dict[str, float]:
        """Count the pictures that show each label, among the first 2000, plus 1."""
        counts = dict.fromkeys(LABEL_IDS, 1.0)
        for row in range(min(len(self), _COUNTED)):
            _, ids, objects = self.picture(row)
            for label in PictureObjects(ids, objects, counts).shown:
                counts[label] += 1
        return counts

    def _rarity(self, structure: float) -> dict[str, float]:
        """Return weights that make all labels equally frequent, except those of the structure."""
        parts = dict.fromkeys(STRUCTURE, structure)
        return {label: parts.get(label, 1.0) / count for label, count in self._counts.items()}

    def batch(
        self,
        rng: np.random.Generator,
        size: int,
        queries: int,
        asking: Asking = JOINT,
    ) -> Batch:
        """Draw ``size`` random pictures with ``queries`` random questions each."""
        images, tokens, targets = [], [], []
        weights = self._rarity(asking.structure)
        speak = loose_sentence if asking.loosely else sentence_of
        for row in rng.integers(len(self), size=size):
            image, ids, objects = self.picture(int(row))
            if rng.random() < 0.5:
                image, ids = image[:, ::-1], ids[:, ::-1]
            viewer = PictureObjects(ids, objects, weights)
            drawn = [sample_view_query(viewer, rng, asking.kinds) for _ in range(queries)]
            images.append(np.ascontiguousarray(image))
            targets.append(_truth(viewer, drawn, ids))
            tokens.append([self._tokens(query, speak(rng, query), rng) for query in drawn])
        stacked = {name: np.stack([target[name] for target in targets]) for name in targets[0]}
        stacked |= vars(self._answers.pack(tokens))
        gain = torch.from_numpy(rng.uniform(0.85, 1.15, (size, 1, 1, 1)).astype(np.float32))
        tint = torch.from_numpy(rng.uniform(-15, 15, (size, 3, 1, 1)).astype(np.float32))
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
        pixels = (pixels * gain + tint).clamp(0, 255)
        return Batch(
            sam=_for_sam(pixels),
            clip=_for_clip(pixels),
            paint=functional.avg_pool2d(pixels, _CELL) / 255,
            **{name: torch.from_numpy(array) for name, array in stacked.items()},
        )

    def _tokens(
        self, query: ViewQuery, text: str, rng: np.random.Generator
    ) -> tuple[list[int], list[int]]:
        question = self._answers.noisy_question(text, rng)
        return question, self._answers.answer(query.name, bool(query.targets))


def _for_sam(pixels: Tensor) -> Tensor:
    mean, std = _SAM_STATS[:, None, :, None, None]
    pad = (0, SAM_SIZE - pixels.shape[3], 0, SAM_SIZE - pixels.shape[2])
    padded: Tensor = functional.pad((pixels - mean) / std, pad)
    return padded


def _for_clip(pixels: Tensor) -> Tensor:
    """Resize to CLIP's square regardless of the aspect ratio, which keeps the picture's sides."""
    mean, std = _CLIP_STATS[:, None, :, None, None]
    resized: Tensor = functional.interpolate(pixels, (CLIP_SIZE, CLIP_SIZE), mode="bilinear")
    normalised: Tensor = (resized - mean) / std
    return normalised


def _truth(viewer: PictureObjects, queries: Sequence[ViewQuery], ids: Array) -> dict[str, Array]:
    """Return labels, masks and further targets of one picture, by field of ``Batch``."""
    objects = viewer.known
    table = np.zeros(NOTHING + 1, np.int64)
    table[: len(objects)] = [LABEL_IDS.get(item.label, UNKNOWN) + 1 for item in objects]
    labels = table[ids]
    in_view = np.full(len(LABEL_IDS), UNKNOWN)
    in_view[[LABEL_IDS[label] for label in viewer.shown]] = 1
    in_view[[LABEL_IDS[label] for label in viewer.absent]] = 0
    chosen = np.zeros((len(queries), NOTHING + 1), np.float32)
    for k, query in enumerate(queries):
        chosen[k, list(query.targets)] = 1
    height, width = ids.shape[0] // _CELL, ids.shape[1] // _CELL
    masks = chosen[:, ids].reshape(len(queries), height, _CELL, width, _CELL).mean(axis=(2, 4))
    return {
        "cells": labels[_CELL // 2 :: _CELL, _CELL // 2 :: _CELL],
        "patches": _patch_shares(labels),
        "in_view": in_view,
        "masks": masks,
        "shown": np.array([bool(query.targets) for query in queries]),
        "labels": np.array([LABEL_IDS.get(query.label, UNKNOWN) for query in queries]),
        "colors": np.array([COLOR_IDS.get(query.color, NO_COLOR) for query in queries]),
        "prompted": np.array([query.kind in PROMPTED for query in queries]),
        "seen_colors": np.array([_seen_color(viewer, query) for query in queries]),
    }


def _patch_shares(labels: Array) -> Array:
    """Return the shares (N, labels + 1) of ``labels`` (H, W) in CLIP's patches."""
    side = _SIDE * _SAMPLES
    rows, columns = (((np.arange(side) + 0.5) * n / side).astype(int) for n in labels.shape)
    few = labels[rows[:, None], columns].reshape(_SIDE, _SAMPLES, _SIDE, _SAMPLES)
    patches = few.transpose(0, 2, 1, 3).reshape(_SIDE * _SIDE, -1)
    kinds = len(LABEL_IDS) + 1
    flat = (patches + kinds * np.arange(len(patches))[:, None]).ravel()
    counts = np.bincount(flat, minlength=kinds * len(patches)).reshape(len(patches), kinds)
    return (counts / _SAMPLES**2).astype(np.float32)


def _seen_color(viewer: PictureObjects, query: ViewQuery) -> int:
    """Return the common colour of all target objects, ``NO_COLOR`` if there is none."""
    if query.kind in ("both", "everything"):
        return NO_COLOR
    colors = {viewer.known[target].color for target in query.targets}
    return COLOR_IDS.get(colors.pop(), NO_COLOR) if len(colors) == 1 else NO_COLOR
