"""The sums of ``stages.fusion.votes`` in PyTorch, for a GPU; rounded in another order.

A scene's sums stay on the device until the last view; of the views, one at a time is there.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from data.types import Array, Progress
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
    """Masks, their weights and weights against, (N, Q) float32 each, as of ``sum_votes``."""
    said, held = (_tensor(part, device).float() for part in (weights, doubt))
    masks, says, against = (
        torch.zeros(num_points, weights.shape[1], device=device) for _ in range(3)
    )
    for view in lifted:
        points = _tensor(view.point_ids, device).long()
        own = said[view.view_index]
        # No view names a point twice, so plain indexing adds everything.
        masks[points] += own * _probabilities(view, device)
        says[points] += own
        against[points] += held[view.view_index]
        progress(view.view_index + 1, len(weights))
    found = (part.cpu().numpy() for part in (masks, says, against))
    return next(found), next(found), next(found)


class OverlapsTorch:
    """Sums of overlaps of views with the others, as ``stages.fusion.votes`` asks for them.

    ``votes`` and ``says`` (N, Q) are brought to ``device`` once for all views.
    """

    def __init__(self, votes: Array, says: Array, tiny: float, device: str) -> None:
        self._votes, self._says = (_tensor(part, device) for part in (votes, says))
        self._tiny, self._device = tiny, device

    @torch.inference_mode()
    def of(self, view: LiftedView, own: Array) -> Array:
        """(2, Q) float64: sums over links of the smaller and of the larger of both."""
        points = _tensor(view.point_ids, self._device).long()
        weight, mine = _tensor(own, self._device), _probabilities(view, self._device)
        others = self._says[points] - weight
        counts = others > self._tiny
        mean = (self._votes[points] - weight * mine) / torch.where(counts, others, 1)
        mean = mean.clamp(0, 1)
        both = torch.stack([torch.minimum(mine, mean), torch.maximum(mine, mean)]) * counts
        found: Array = both.sum(dim=1, dtype=torch.float64).cpu().numpy()
        return found


def _probabilities(view: LiftedView, device: str) -> Tensor:
    """(L, Q) float32, 0 for queries without a drawn mask."""
    uv, size, extent = (_tensor(part, device) for part in view.sampling)
    grid = _tensor(view.grid, device)
    height, width, _ = grid.shape
    cells = torch.tensor([width, height], device=device)
    # grid_sample wants -1 and 1 at the outer edges of the outermost cells.
    places = ((uv / size).double() * extent / cells * 2 - 1).float()
    images = grid.permute(2, 0, 1)[None]
    logits = grid_sample(
        images, places[None, None], padding_mode="border", align_corners=False
    )  # (1, Q, 1, L)
    return torch.sigmoid(logits[0, :, 0].T) * _tensor(view.drawn, device)


def _tensor(array: Array, device: str) -> Tensor:
    return torch.as_tensor(array, device=device)
