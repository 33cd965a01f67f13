"""A student's answers on one cloud: what it says of superpoints, averaged over turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.batches import find_parts, voxel_inputs
from data.types import Array
from models.descriptors import Pooling
from models.student import Student

_QUERIES_AT_ONCE = 256
_FIRST_TURN, _GOLDEN_ANGLE = 20.0, 137.5  # Degrees; no two turns meet the grid alike.


class Answers(NamedTuple):
    """``probs`` (Q, S) float32 of superpoints, ``features`` (S, D) float32 they come from."""

    probs: Array
    features: Array


@torch.inference_mode()
def answer_superpoints(
    model: Student,
    cloud: tuple[Array, Array, Array],
    superpoint_ids: Array,
    tokens: Tensor,
    voxel_size: float,
    turns: int,
) -> Answers:
    """Probabilities and mask features, means over ``turns`` of the cloud about the vertical axis.

    Never by a multiple of 90 degrees: walls in line with the voxel grid, as procedural rooms
    have them, look like nothing that was trained on.

    Args:
        model: in evaluation mode, on the device of ``tokens``.
        cloud: points (N, 3) m with the floor at z = 0, colours (N, 3) 0..255, normals (N, 3).
        superpoint_ids: (N,), 0..S-1.
        tokens: (Q, T); a zero row is answered with 0 everywhere.
        voxel_size: metres, as in training.
        turns: from 1 on.
    """
    features = features_by_turn(model, cloud, superpoint_ids, voxel_size, turns)
    return answer_features(model, features, tokens)


@torch.inference_mode()
def features_by_turn(
    model: Student,
    cloud: tuple[Array, Array, Array],
    superpoint_ids: Array,
    voxel_size: float,
    turns: int,
) -> tuple[Tensor, ...]:
    """Mask features (S, D) of each turn, which no query changes; see ``answer_superpoints``."""
    return tuple(
        _mask_features(model, _turned(cloud, turn), superpoint_ids, voxel_size)
        for turn in range(turns)
    )


@torch.inference_mode()
def answer_features(model: Student, by_turn: Sequence[Tensor], tokens: Tensor) -> Answers:
    """What queries (Q, T) are answered by the features of a cloud's turns; at least one."""
    probs = np.zeros((len(tokens), len(by_turn[0])), np.float32)
    for features in by_turn:
        rows = torch.split(tokens, _QUERIES_AT_ONCE)
        logits = [model.mask_logits(features, part).sigmoid().cpu().numpy() for part in rows]
        probs += np.concatenate(logits) if logits else 0
    seen = [features.float().cpu().numpy() for features in by_turn]
    return Answers(probs / np.float32(len(by_turn)), np.mean(seen, axis=0))


def _turned(cloud: tuple[Array, Array, Array], turn: int) -> tuple[Array, Array, Array]:
    angle = np.radians(_FIRST_TURN + _GOLDEN_ANGLE * turn)
    c, s = np.cos(angle), np.sin(angle)
    rotation = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]], np.float32)
    points, colors, normals = cloud
    return points @ rotation, colors, normals @ rotation


def _mask_features(
    model: Student, cloud: tuple[Array, Array, Array], superpoint_ids: Array, voxel_size: float
) -> Tensor:
    device = model.scale.device
    inputs = voxel_inputs(*cloud, voxel_size)
    parts = find_parts(inputs.point_to_voxel, superpoint_ids)
    voxel, superpoint, share = (torch.from_numpy(part).to(device) for part in parts)
    how = Pooling(voxel, superpoint, share, int(superpoint_ids.max()) + 1)
    indices = F.pad(torch.from_numpy(inputs.grid_coords), (1, 0)).contiguous().to(device)
    mask: Tensor = model(torch.from_numpy(inputs.features).to(device), indices, [how])[0].mask
    return mask
