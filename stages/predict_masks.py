"""Stage: a trained student answers a scene's queries with masks on its original points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from data.artifacts.predictions import Predictions
from data.artifacts.pseudo import PseudoLabels
from data.artifacts.student import CONFIG, read_model
from data.batches import floor_height, voxel_inputs
from data.errors import ArtifactError, UserError
from data.types import Array, Scene
from data.voxels import mean_by_group
from models.student import Student
from stages.configs import PredictConfig

_QUERIES_AT_ONCE = 32


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
        cfg: threshold and smoothing.
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
    cloud = scene.cloud
    points = cloud.points - np.array([0, 0, floor_height(cloud.points)], np.float32)
    inputs = voxel_inputs(points, cloud.colors, cloud.normals, voxel_size)
    indices = F.pad(torch.from_numpy(inputs.grid_coords), (1, 0)).contiguous().to(device)
    probs = np.empty((len(tokens), len(points)), np.float32)
    with torch.inference_mode():
        features = model(torch.from_numpy(inputs.features).to(device), indices, 1).mask
        for start in range(0, len(tokens), _QUERIES_AT_ONCE):
            rows = slice(start, start + _QUERIES_AT_ONCE)
            voxel_probs = model.mask_logits(features, tokens[rows]).sigmoid().cpu().numpy()
            probs[rows] = voxel_probs[:, inputs.point_to_voxel]
    if cfg.superpoints:
        probs = smooth(probs, scene.superpoint_ids)
    masks = (probs >= cfg.threshold) & (labels.query_tokens != 0).any(1)[:, None]
    return Predictions(scene.scene_id, labels.prompt_ids, probs, masks)


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
