"""What one scene's answers cost the student: targets, their weights, and all losses of them."""

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
    """An array's contiguous values on a device; to a GPU they travel while the CPU goes on."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def pooling(sample: Sample, device: torch.device) -> Pooling:
    """How a sample's voxels make up its superpoints."""
    voxel, superpoint, share = (as_tensor(part, device) for part in sample.parts)
    return Pooling(voxel, superpoint, share, len(sample.sizes))


def fuse_views(model: Student, views: QueryViews) -> Fused:
    """One token a query from what its views say, on the student's device."""
    given = (views.tokens, views.weights, views.beliefs, views.poses)
    return model.fuse(*(as_tensor(array, model.scale.device) for array in given))


def targets(sample: Sample) -> tuple[Array, Array]:
    """Targets in [0, 1] and weights of a sample's superpoints, (Q, S) float32 each.

    Targets are labels scaled so that a query's threshold becomes one half; they stay soft, so
    that what fusion was unsure of is learnt as unsure. Queries without object are 0. What no
    view saw has no weight; larger superpoints have more, by the root of their points: what is
    learnt is what things are, of which a large one is no better example.
    """
    weights = (sample.confidence > 0) * np.sqrt(sample.sizes)
    return rescale_by_threshold(sample.soft, sample.thresholds), weights.astype(np.float32)


def scene_losses(
    model: Student, sample: Sample, features: Features, cfg: LossConfig
) -> Mapping[str, Tensor]:
    """Each loss of one scene, by the name of its weight in ``cfg``."""
    device = features.mask.device
    wanted, weights = (as_tensor(array, device) for array in targets(sample))
    fused = fuse_views(model, sample.views)
    logits = model.mask_logits(features.mask.float(), fused.tokens)
    foreign = model.mask_logits(features.mask.float(), as_tensor(sample.negatives, device))
    pairs, affinity = as_tensor(sample.pairs, device), as_tensor(sample.affinity, device)
    claimed = losses.claimed_tokens(wanted, weights, as_tensor(sample.tokens, device))
    parts = {
        "bce": losses.weighted_bce(logits, wanted, weights, cfg.positive_weight),
        "dice": losses.dice(logits, wanted, weights),
        "neighbours": losses.neighbour_pull(logits, pairs, affinity),
        "feature": losses.feature_cosine(features.token.float(), claimed),
        "absent": losses.absent(foreign, weights.amax(0)),
    }
    if features.image is not None and sample.image is not None:
        wanted = as_tensor(sample.image, device)
        parts["image"] = losses.feature_cosine(features.image.float(), wanted)
    return parts


class Objective(nn.Module):
    """The student and what its answers cost, in one ``forward``.

    Whoever trains in several processes sees of a network only what goes through that.
    """

    def __init__(self, student: Student, cfg: LossConfig) -> None:
        """Take a student on its device, and the weights of its losses."""
        super().__init__()
        self.student, self._cfg = student, cfg

    def prepare(self, samples: Sequence[Sample]) -> Voxels:
        """What of ``forward`` needs no weights, and can be made ahead in another thread."""
        sizes = [len(sample.features) for sample in samples]
        numbers = np.repeat(np.arange(len(samples), dtype=np.int32), sizes)[:, None]
        coords = np.concatenate([sample.grid_coords for sample in samples])
        indices = np.concatenate([numbers, coords], 1)
        features = np.concatenate([sample.features for sample in samples])
        on_cpu = self.student.scale.device.type == "cpu"
        books = self.student.backbone.rulebooks(torch.from_numpy(indices)) if on_cpu else {}
        return Voxels(features, indices, books)

    def forward(self, share: Share) -> dict[str, Tensor]:
        """This process's share of each part of a batch's loss, and of their weighted sum, loss."""
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
            each = [
                scene_losses(self.student, sample, output, self._cfg)
                for sample, output in zip(share.samples, outputs, strict=True)
            ]
            parts = {name: sum(one[name] for one in each) / share.divisor for name in each[0]}
            weights = self._cfg.model_dump()
            loss = sum(weights[name] * part for name, part in parts.items())
            whole = {"loss": loss, **parts}
        return whole if share.counts else {name: 0.0 * part for name, part in whole.items()}
