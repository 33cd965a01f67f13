"""Token-for-query: the [SEG] tokens of a query's views become one token bound to the object.

Fusion weighs views in closed form (``stages.view_gate``). ``ViewFusion`` starts as that and
learns, together with the student, to weigh views by all that is known of them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

POSE_DIM = 6
"""Numbers that tell where a view was taken from: camera centre and viewing direction."""
_HEADS = 4
_LARGEST = 3.0
"""No view's weight changes by more than e to this power."""


class Fused(NamedTuple):
    """``tokens`` (Q, D) unit or 0, ``weights`` (Q, V) >= 0 whose rows sum to 1 or are all 0."""

    tokens: Tensor
    weights: Tensor


def fuse_tokens(vectors: Tensor, weights: Tensor) -> Fused:
    """The weighted mean direction of each query's views.

    Args:
        vectors: (Q, V, D); scaled to unit length here.
        weights: (Q, V) >= 0; scaled here so that rows sum to 1.
    """
    total = weights.sum(dim=1, keepdim=True)
    shares = weights / torch.where(total > 0, total, 1.0)
    mean = (shares[:, None] @ F.normalize(vectors, dim=-1))[:, 0]
    return Fused(F.normalize(mean, dim=-1), shares)


class ViewFusion(nn.Module):
    """A small transformer over a query's views that corrects the closed form's weights.

    Each view enters as its token, its pose and the teacher's belief; what comes out is a factor
    on its weight, e^d with d = 0 in a new network. Views do not know their places, so their
    order changes nothing; views without weight are seen by no other, so they change nothing.
    """

    def __init__(self, token_dim: int, width: int = 64, layers: int = 1) -> None:
        """Build a network that keeps the weights it is given until it is trained.

        Args:
            token_dim: D, length of the tokens.
            width: of the transformer, a multiple of 4.
            layers: of the transformer.
        """
        super().__init__()
        self.enter = nn.Linear(token_dim + POSE_DIM + 1, width)
        layer = nn.TransformerEncoderLayer(
            width, _HEADS, dim_feedforward=2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.leave = nn.Linear(width, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, vectors: Tensor, weights: Tensor, beliefs: Tensor, poses: Tensor) -> Fused:
        """Fuse Q queries over V views.

        Args:
            vectors: (Q, V, D) [SEG] tokens.
            weights: (Q, V) of the closed form, 0 for a view that has no say.
            beliefs: (Q, V) in [0, 1], the teacher's in its own answers.
            poses: (V, 6) camera centre and viewing direction, in a frame of the scene.
        """
        kept = weights > 0
        asked = kept.any(dim=1)
        if not bool(asked.any()):
            return fuse_tokens(vectors, weights)
        unit = F.normalize(vectors, dim=-1)
        views = torch.cat([unit, poses.expand(len(unit), -1, -1), beliefs[..., None]], dim=-1)
        # A query without a single view would leave attention nothing to look at.
        states = self.encoder(self.enter(views[asked]), src_key_padding_mask=~kept[asked])
        # Bounded, and without masked views before the exponential: one that overflows where
        # nobody looks would make gradients NaN.
        change = _LARGEST * torch.tanh(self.leave(states)[..., 0] / _LARGEST)
        factors = change.masked_fill(~kept[asked], 0.0).exp()
        return fuse_tokens(vectors, weights.index_put((asked,), weights[asked] * factors))
