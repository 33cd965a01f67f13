"""Training targets and losses of the student, per scene and per batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.types import Array
from models import student as losses
from models.sparse.unet import count_rows
from models.student import Features, Fused, Pooling, Student
from stages.fusion.thresholds import rescale_by_threshold
from stages.network_configs import LossConfig
from stages.student.sample_loader import Share, Voxels
from stages.student.training_samples import QueryViews, Sample


def as_tensor(array: Any, device: torch.device) -> Tensor:
    """Copy an array to a device as a contiguous tensor; copies to a GPU are asynchronous."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def pooling(sample: Sample, device: torch.device) -> Pooling:
    """Return the pooling of a sample's voxels into superpoints, on a device."""
    voxel, superpoint, share = (as_tensor(part, device) for part in sample.parts)
    return Pooling(voxel, superpoint, share, len(sample.sizes))


def fuse_views(model: Student, views: QueryViews) -> Fused:
    """Fuse the views of each query into one token, on the student's device."""
    arrays = (views.tokens, views.weights, views.confidence, views.poses)
    return model.fuse(*(as_tensor(array, model.scale.device) for array in arrays))


def targets(sample: Sample) -> tuple[Array, Array]:
    """Return targets in [0, 1] and weights of a sample's superpoints, (Q, S) float32 each.

    Targets are labels scaled so that the threshold of their query becomes one half; they stay
    soft, so the uncertainty of fusion is learnt. Queries without object have targets 0.
    Superpoints that no view sees have weight 0; the others have the square root of their number
    of points, because a large superpoint is not a proportionally better example.
    """
    weights = (sample.confidence > 0) * np.sqrt(sample.sizes)
    return rescale_by_threshold(sample.soft, sample.thresholds), weights.astype(np.float32)


def scene_losses(
    model: Student, sample: Sample, features: Features, cfg: LossConfig
) -> Mapping[str, Tensor]:
    """Compute the losses of one scene, keyed by the name of their weight in ``cfg``."""
    device = features.mask.device
    labels, weights = (as_tensor(array, device) for array in targets(sample))
    fused = fuse_views(model, sample.views)
    logits = model.mask_logits(features.mask.float(), fused.tokens)
    foreign = model.mask_logits(features.mask.float(), as_tensor(sample.negatives, device))
    pairs, affinity = as_tensor(sample.pairs, device), as_tensor(sample.affinity, device)
    claimed = losses.claimed_tokens(labels, weights, as_tensor(sample.tokens, device))
    parts = {
        "bce": losses.weighted_bce(logits, labels, weights, cfg.positive_weight),
        "dice": losses.dice(logits, labels, weights),
        "neighbours": losses.neighbour_pull(logits, pairs, affinity),
        "feature": losses.feature_cosine(features.token.float(), claimed),
        "absent": losses.absent(foreign, weights.amax(0)),
    }
    if features.image is not None and sample.image is not None:
        image_targets = as_tensor(sample.image, device)
        parts["image"] = losses.feature_cosine(features.image.float(), image_targets)
    return parts


class Objective(nn.Module):
    """The student and its losses in one ``forward``.

    DistributedDataParallel synchronises only computations inside ``forward``.
    """

    def __init__(self, student: Student, cfg: LossConfig) -> None:
        """Take a student on its device, and the weights of its losses."""
        super().__init__()
        self.student, self._cfg = student, cfg

    def prepare(self, samples: Sequence[Sample]) -> Voxels:
        """Compute the inputs of ``forward`` that need no weights, ahead in another thread."""
        sizes = [len(sample.features) for sample in samples]
        numbers = np.repeat(np.arange(len(samples), dtype=np.int32), sizes)[:, None]
        coords = np.concatenate([sample.grid_coords for sample in samples])
        indices = np.concatenate([numbers, coords], 1)
        features = np.concatenate([sample.features for sample in samples])
        on_cpu = self.student.scale.device.type == "cpu"
        books = self.student.backbone.rulebooks(torch.from_numpy(indices)) if on_cpu else {}
        return Voxels(features, indices, books)

    def forward(self, share: Share) -> dict[str, Tensor]:
        """Return this process's share of each loss of a batch, and their weighted sum "loss"."""
        device = self.student.scale.device
        count_rows(self.student, share.counts)
        voxels = share.voxels or self.prepare(share.samples)
        outputs = self.student(
            as_tensor(voxels.features, device),
            as_tensor(voxels.indices, device),
            [pooling(sample, device) for sample in share.samples],
            voxels.books,
        )
        with torch.autocast(device.type, enabled=False):  # Losses are float32 everywhere.
            by_scene = [
                scene_losses(self.student, sample, output, self._cfg)
                for sample, output in zip(share.samples, outputs, strict=True)
            ]
            parts = {
                name: sum(of_scene[name] for of_scene in by_scene) / share.divisor
                for name in by_scene[0]
            }
            weights = self._cfg.model_dump()
            loss = sum(weights[name] * part for name, part in parts.items())
            whole = {"loss": loss, **parts}
        return whole if share.counts else {name: 0.0 * part for name, part in whole.items()}
