"""Stage: a trained student answers a scene's queries with masks on its original points."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.artifacts.predictions import Predictions
from data.artifacts.pseudo import PseudoLabels
from data.artifacts.student import CONFIG, read_model
from data.batches import Inputs, floor_height, voxel_inputs
from data.errors import ArtifactError, UserError
from data.types import Array, PointCloud, Scene
from data.voxels import mean_by_group
from models.student import Student
from stages.configs import PredictConfig
from stages.repeatable import repeatable

_QUERIES_AT_ONCE = 32
_FIRST_TURN, _GOLDEN_ANGLE = 20.0, 137.5  # Degrees; no two turns meet the grid alike.


def run(
    scene: Scene,
    labels: PseudoLabels,
    student_dir: Path,
    cfg: PredictConfig,
    device: str = "cpu",
) -> Predictions:
    """Masks of all of a scene's queries.

    Args:
        scene: the scan.
        labels: only its ``prompt_ids`` and ``query_tokens`` are read; a zero token gives an
            empty mask.
        student_dir: a finished student.
        cfg: turns, smoothing and threshold.
        device: "cpu" or "cuda[:i]".

    Raises:
        ArtifactError: the student is missing or damaged.
        UserError: no such device, the wrong spconv, or tokens of another teacher.
    """
    model, voxel_size = _load(student_dir, device)
    tokens = torch.from_numpy(labels.query_tokens).to(device)
    if tokens.shape[1] != model.token_map.in_features:
        raise UserError(
            f"{scene.scene_id}: tokens have length {tokens.shape[1]}, but the student in "
            f"{student_dir} takes {model.token_map.in_features}. Train it with this teacher."
        )
    probs = np.zeros((len(tokens), len(scene.cloud)), np.float32)
    with repeatable(), torch.inference_mode():
        for turn in range(cfg.turns):
            inputs = _turned_inputs(scene.cloud, turn, voxel_size)
            for row, voxel_probs in enumerate(_voxel_probs(model, inputs, tokens)):
                probs[row] += voxel_probs[inputs.point_to_voxel]
    probs /= np.float32(cfg.turns)
    if cfg.superpoints:
        probs = smooth(probs, scene.superpoint_ids)
    masks = np.zeros(probs.shape, bool)
    for query in np.flatnonzero((labels.query_tokens != 0).any(1)):
        masks[query] = _mask(probs[query], cfg)
    return Predictions(scene.scene_id, labels.prompt_ids, probs, masks)


def _turned_inputs(cloud: PointCloud, turn: int, voxel_size: float) -> Inputs:
    """Inputs of the scene turned about the vertical axis, for each ``turn`` by another angle.

    Never by a multiple of 90 degrees: walls in line with the voxel grid, as procedural rooms
    have them, look like nothing that was trained on.
    """
    angle = np.radians(_FIRST_TURN + _GOLDEN_ANGLE * turn)
    c, s = np.cos(angle), np.sin(angle)
    rotation = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]], np.float32)
    points = cloud.points - np.array([0, 0, floor_height(cloud.points)], np.float32)
    return voxel_inputs(points @ rotation, cloud.colors, cloud.normals @ rotation, voxel_size)


def _voxel_probs(model: Student, inputs: Inputs, tokens: Tensor) -> Iterator[Array]:
    """Yield each query's (M,) f4 probabilities of the voxels."""
    indices = F.pad(torch.from_numpy(inputs.grid_coords), (1, 0)).contiguous()
    features = torch.from_numpy(inputs.features).to(tokens.device)
    mask_features = model(features, indices.to(tokens.device), 1).mask
    for rows in torch.split(tokens, _QUERIES_AT_ONCE):
        yield from model.mask_logits(mask_features, rows).sigmoid().cpu().numpy()


def _mask(probs: Array, cfg: PredictConfig) -> Array:
    if not cfg.adaptive:
        return np.asarray(probs >= cfg.threshold)
    if probs.max(initial=0) < cfg.presence:
        return np.zeros(len(probs), bool)
    return np.asarray(probs >= best_threshold(probs))


def best_threshold(probs: Array) -> float:
    """The threshold whose mask has the largest expected Dice overlap, were the probabilities true.

    Of the n points most likely, 2 * sum of their probabilities / (n + sum of all) is the ratio
    of expectations; it is largest at about half of itself, so an unsure student needs a lower
    threshold than one half (Lipton et al. 2014). ``probs`` is (N,), N > 0.
    """
    ordered = np.sort(probs)[::-1].astype(np.float64)
    sums = np.cumsum(ordered)
    counts = np.arange(1, len(ordered) + 1)
    return float(ordered[np.argmax(2 * sums / (counts + sums[-1]))])


def smooth(probs: Array, superpoint_ids: Array) -> Array:
    """(Q, N) f4: every point gets the mean of its superpoint.

    Args:
        probs: (Q, N) f4.
        superpoint_ids: (N,) i4, 0..S-1.
    """
    num = int(superpoint_ids.max()) + 1
    return (
        np.stack(
            [mean_by_group(row[:, None], superpoint_ids, num)[superpoint_ids, 0] for row in probs]
        )
        if len(probs)
        else probs
    )


def _load(student_dir: Path, device: str) -> tuple[Student, float]:
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"Device {device!r} was asked for, but torch finds no CUDA device.")
    weights, config = read_model(student_dir)
    try:
        model = Student(**config["network"], seed=0)
        model.load_state_dict(weights)
        voxel_size = float(config["training"]["voxel_size"])
    except ImportError as error:
        raise UserError(str(error)) from error
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ArtifactError(
            student_dir / CONFIG, "the config of these weights", str(error), "Run TrainStudent."
        ) from error
    return model.to(device).eval(), voxel_size
