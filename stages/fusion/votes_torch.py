"""Compute the sums of ``stages.fusion.votes`` in PyTorch on a GPU; they are rounded differently.

The sums of a scene stay on the device until the last view; the device holds one view at a time.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from data.types import Array, Progress
from stages.fusion.link_trust import FULL
from stages.fusion.sample_masks import LiftedView


@torch.inference_mode()
def sum_votes_torch(
    lifted: Iterable[LiftedView],
    num_points: int,
    weights: Array,
    doubt: Array,
    progress: Progress,
    device: str,
) -> tuple[Array, Array, Array]:
    """Return masks, mask weights and weights against as ``sum_votes`` does, (N, Q) float32 each."""
    view_weights, view_doubt = (_tensor(part, device).float() for part in (weights, doubt))
    masks, mask_weights, against = (
        torch.zeros(num_points, weights.shape[1], device=device) for _ in range(3)
    )
    for view in lifted:
        points = _tensor(view.point_ids, device).long()
        own = view_weights[view.view_index]
        # Point ids of a view are distinct, so plain indexing adds every link.
        trust = _trust(view, device)
        masks[points] += trust * own * _probabilities(view, device)
        mask_weights[points] += trust * own
        against[points] += trust * view_doubt[view.view_index]
        progress(view.view_index + 1, len(weights))
    return masks.cpu().numpy(), mask_weights.cpu().numpy(), against.cpu().numpy()


class OverlapsTorch:
    """Sums the overlaps of a view's masks with those of the other views.

    ``votes`` and ``mask_weights`` (N, Q) are copied to ``device`` once for all views.
    """

    def __init__(self, votes: Array, mask_weights: Array, tiny: float, device: str) -> None:
        self._votes, self._mask_weights = (_tensor(part, device) for part in (votes, mask_weights))
        self._tiny, self._device = tiny, device

    @torch.inference_mode()
    def of(self, view: LiftedView, own: Array) -> Array:
        """Return (2, Q) float64: sums over links of min and max of the mask and the others' mean.

        ``own`` (Q,) float32 are the weights of the view.
        """
        points = _tensor(view.point_ids, self._device).long()
        trust, mine = _trust(view, self._device), _probabilities(view, self._device)
        weight = trust * _tensor(own, self._device)
        others = self._mask_weights[points] - weight
        counts = others > self._tiny
        mean = (self._votes[points] - weight * mine) / torch.where(counts, others, 1)
        mean = mean.clamp(0, 1)
        extremes = torch.stack([torch.minimum(mine, mean), torch.maximum(mine, mean)]) * (
            counts * trust
        )
        sums: Array = extremes.sum(dim=1, dtype=torch.float64).cpu().numpy()
        return sums


def _probabilities(view: LiftedView, device: str) -> Tensor:
    """Return (L, Q) float32 probabilities at the links of a view, 0 for queries without mask."""
    uv, size, extent = (_tensor(part, device) for part in view.sampling)
    grid = _tensor(view.grid, device)
    height, width, _ = grid.shape
    cells = torch.tensor([width, height], device=device)
    # grid_sample expects -1 and 1 at the outer edges of the outermost cells.
    positions = ((uv / size).double() * extent / cells * 2 - 1).float()
    images = grid.permute(2, 0, 1)[None]
    logits = grid_sample(
        images, positions[None, None], padding_mode="border", align_corners=False
    )  # (1, Q, 1, L)
    return torch.sigmoid(logits[0, :, 0].T) * _tensor(view.drawn, device)


def _trust(view: LiftedView, device: str) -> Tensor:
    """Return the trust (L, 1) float32 in the links of a view."""
    return _tensor(view.trust, device)[:, None].float() / FULL


def _tensor(array: Array, device: str) -> Tensor:
    return torch.as_tensor(array, device=device)
