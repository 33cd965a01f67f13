"""Batches for LISA-nano: pictures, questions on them and what is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from data.rooms.catalog import STRUCTURE
from data.rooms.loose_sentences import say_loosely
from data.rooms.sentences import say
from data.rooms.snapshots import NOTHING, Known, read_snapshots
from data.rooms.view_queries import (
    ASKED_LABELS,
    COLORS,
    KINDS,
    PROMPTED,
    Viewer,
    ViewQuery,
    ask_view,
)
from data.types import Array
from models.lisa.images import ClipTransform
from models.lisa.trainee import CELLS, CLIP_SIZE, PATCH, SAM_SIZE
from stages.nano.packing import UNKNOWN, Answers

LABEL_IDS: Mapping[str, int] = {label: i for i, label in enumerate(ASKED_LABELS)}
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
    """How questions are drawn and put.

    ``structure`` is the share of floor, ceiling and walls, 1 being that of any other label.
    """

    kinds: Mapping[str, float]
    structure: float = 0.2
    loosely: bool = False


JOINT = Asking(KINDS)


@dataclass(frozen=True, eq=False)
class Batch:
    """What a step needs: B pictures of h x w mask cells, K questions each, S tokens.

    ``sam`` (B, 3, s, s) and ``clip`` (B, 3, c, c) normalised pixels; ``paint`` (B, 3, h, w)
    mean colours in 0..1; ``cells`` (B, h, w) label + 1 at each cell, 0 none; ``patches``
    (B, N, labels + 1) shares of labels in CLIP's patches; ``in_view`` (B, labels) 1, 0 or
    ``UNKNOWN``; ``masks`` (B, K, h, w) shares of cells that belong to the answer; ``shown``
    (B, K) whether it is in view; ``labels``, ``colors`` (B, K) asked for; ``seen_colors``
    (B, K) of what answers, ``NO_COLOR`` where unclear; ``prompted`` (B, K) whether label and
    colour tell what is asked for; ``ids`` to ``ask_at`` as ``Packed``.
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
    """Labelled pictures, mapped into memory, from which batches are drawn."""

    def __init__(self, folders: Sequence[Path], answers: Answers) -> None:
        self._shards = [read_snapshots(folder) for folder in folders]
        self._starts = np.cumsum([0, *(len(shard) for shard in self._shards)])
        self._answers = answers
        self._counts = self._count_labels()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def picture(self, row: int) -> tuple[Array, Array, Sequence[Known]]:
        """Image (H, W, 3), object ids (H, W) and objects of one picture."""
        shard = int(np.searchsorted(self._starts, row, side="right")) - 1
        snapshots, local = self._shards[shard], row - int(self._starts[shard])
        known = snapshots.rooms[int(snapshots.room_of[local])]
        return snapshots.images[local], snapshots.object_ids[local], known

    def _count_labels(self) -> dict[str, float]:
        """In how many of the first pictures each label shows, and one more."""
        counts = dict.fromkeys(LABEL_IDS, 1.0)
        for row in range(min(len(self), _COUNTED)):
            _, ids, known = self.picture(row)
            for label in Viewer(ids, known, counts).shown:
                counts[label] += 1
        return counts

    def _rarity(self, structure: float) -> dict[str, float]:
        """Weights that make all labels be asked for alike, but those of the structure."""
        parts = dict.fromkeys(STRUCTURE, structure)
        return {label: parts.get(label, 1.0) / count for label, count in self._counts.items()}

    def batch(
        self,
        rng: np.random.Generator,
        size: int,
        queries: int,
        asking: Asking = JOINT,
    ) -> Batch:
        """``size`` random pictures with ``queries`` random questions each."""
        images, tokens, rest = [], [], []
        weights = self._rarity(asking.structure)
        speak = say_loosely if asking.loosely else say
        for row in rng.integers(len(self), size=size):
            image, ids, known = self.picture(int(row))
            if rng.random() < 0.5:
                image, ids = image[:, ::-1], ids[:, ::-1]
            viewer = Viewer(ids, known, weights)
            asked = [ask_view(viewer, rng, asking.kinds) for _ in range(queries)]
            images.append(np.ascontiguousarray(image))
            rest.append(_truth(viewer, asked, ids))
            tokens.append([self._tokens(query, speak(rng, query), rng) for query in asked])
        stacked = {name: np.stack([one[name] for one in rest]) for name in rest[0]}
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
    """Squashed to CLIP's square: unlike a crop, that leaves the sides of a picture in."""
    mean, std = _CLIP_STATS[:, None, :, None, None]
    squashed: Tensor = functional.interpolate(pixels, (CLIP_SIZE, CLIP_SIZE), mode="bilinear")
    normalised: Tensor = (squashed - mean) / std
    return normalised


def _truth(viewer: Viewer, asked: Sequence[ViewQuery], ids: Array) -> dict[str, Array]:
    """Labels and masks of one picture."""
    known = viewer.known
    table = np.zeros(NOTHING + 1, np.int64)
    table[: len(known)] = [LABEL_IDS[item.label] + 1 for item in known]
    labels = table[ids]
    in_view = np.full(len(LABEL_IDS), UNKNOWN)
    in_view[[LABEL_IDS[label] for label in viewer.shown]] = 1
    in_view[[LABEL_IDS[label] for label in viewer.absent]] = 0
    chosen = np.zeros((len(asked), NOTHING + 1), np.float32)
    for k, query in enumerate(asked):
        chosen[k, list(query.targets)] = 1
    height, width = ids.shape[0] // _CELL, ids.shape[1] // _CELL
    masks = chosen[:, ids].reshape(len(asked), height, _CELL, width, _CELL).mean(axis=(2, 4))
    return {
        "cells": labels[_CELL // 2 :: _CELL, _CELL // 2 :: _CELL],
        "patches": _patch_shares(labels),
        "in_view": in_view,
        "masks": masks,
        "shown": np.array([bool(query.targets) for query in asked]),
        "labels": np.array([LABEL_IDS[query.label] for query in asked]),
        "colors": np.array([COLOR_IDS.get(query.color, NO_COLOR) for query in asked]),
        "prompted": np.array([query.kind in PROMPTED for query in asked]),
        "seen_colors": np.array([_seen_color(viewer, query) for query in asked]),
    }


def _patch_shares(labels: Array) -> Array:
    """(N, labels + 1) shares of labels (H, W) in the patches CLIP sees of the squashed image."""
    side = _SIDE * _SAMPLES
    rows, columns = (((np.arange(side) + 0.5) * n / side).astype(int) for n in labels.shape)
    few = labels[rows[:, None], columns].reshape(_SIDE, _SAMPLES, _SIDE, _SAMPLES)
    patches = few.transpose(0, 2, 1, 3).reshape(_SIDE * _SIDE, -1)
    kinds = len(LABEL_IDS) + 1
    flat = (patches + kinds * np.arange(len(patches))[:, None]).ravel()
    counts = np.bincount(flat, minlength=kinds * len(patches)).reshape(len(patches), kinds)
    return (counts / _SAMPLES**2).astype(np.float32)


def _seen_color(viewer: Viewer, query: ViewQuery) -> int:
    """The colour all objects of an answer share, if they have a clear one."""
    if query.kind in ("both", "everything"):
        return NO_COLOR
    found = {viewer.known[target].color for target in query.targets}
    return COLOR_IDS.get(found.pop(), NO_COLOR) if len(found) == 1 else NO_COLOR
