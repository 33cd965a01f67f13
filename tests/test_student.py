"""The network: what it depends on, what it must not depend on, and empty queries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from data.voxels import voxelise
from models.sparse_unet import PRESETS, Layout, SparseUNet
from models.student import Student

SMALL = Layout(4, 3, ((6, 1), (8, 2)), ((8, 1), (6, 0)))


def cloud(seed: int, count: int = 600) -> tuple[Tensor, Tensor]:
    """Features (M, 3) and indices (M, 4) of a random scene of one batch number."""
    rng = np.random.default_rng(seed)
    coords = voxelise(rng.uniform(0, 2, (count, 3)), 0.15).grid_coords
    indices = torch.from_numpy(np.pad(coords, ((0, 0), (1, 0)))).contiguous()
    return torch.from_numpy(rng.normal(size=(len(coords), 3)).astype(np.float32)), indices


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_run_and_every_weight_learns(preset: str) -> None:
    model = Student(preset, 3, 5, 8, seed=0)
    features, indices = cloud(0, 150)
    output = model(features, indices, 1)
    tokens = torch.eye(2, 5)
    loss = model.mask_logits(output.mask, tokens).square().mean() + output.token.square().mean()
    loss.backward()
    assert output.mask.shape == (len(features), 8) and output.token.shape == (len(features), 5)
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_weights_depend_on_the_seed_only() -> None:
    torch.manual_seed(1)
    a = Student("tiny", 3, 5, 8, seed=0).state_dict()
    torch.manual_seed(2)
    b, c = (
        Student("tiny", 3, 5, 8, seed=0).state_dict(),
        Student("tiny", 3, 5, 8, seed=1).state_dict(),
    )
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["token_map.weight"], c["token_map.weight"])
    gram = a["token_map.weight"].T @ a["token_map.weight"]
    assert torch.allclose(gram, torch.eye(5), atol=1e-5)


def test_order_of_voxels_does_not_matter() -> None:
    model = SparseUNet(3, SMALL).eval()
    features, indices = cloud(1)
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    plain = model(features, indices, 1)
    assert plain.shape == (len(features), model.out_channels)
    shuffled = model(features[order], indices[order].contiguous(), 1)
    assert torch.allclose(plain[order], shuffled, atol=1e-4)


def test_scenes_of_a_batch_do_not_mix_when_predicting() -> None:
    model = SparseUNet(3, SMALL).eval()
    (xa, ia), (xb, ib) = cloud(2), cloud(3)
    both = torch.cat([ia, ib + torch.tensor([1, 0, 0, 0], dtype=torch.int32)]).contiguous()
    together = model(torch.cat([xa, xb]), both, 2)
    assert torch.allclose(together[: len(xa)], model(xa, ia, 1), atol=1e-4)
    assert torch.allclose(together[len(xa) :], model(xb, ib, 1), atol=1e-4)


def test_whole_coarsest_cells_may_shift() -> None:
    model = SparseUNet(3, SMALL).eval()
    features, indices = cloud(4)
    shifted = indices + torch.tensor([0, 4, 8, 0], dtype=torch.int32)
    assert torch.allclose(model(features, indices, 1), model(features, shifted, 1), atol=1e-4)


def test_mask_logits_by_hand_and_scale_of_tokens() -> None:
    model = Student("tiny", 3, 2, 2, seed=0)
    with torch.no_grad():
        model.token_map.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        model.scale.fill_(3.0)
        model.bias.fill_(-1.0)
    features = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    logits = model.mask_logits(features, torch.tensor([[5.0, 0.0], [0.0, 0.1]]))
    assert torch.allclose(logits, torch.tensor([[2.0, -1.0], [11.0, -7.0]]))


def test_a_zero_token_gives_an_empty_mask() -> None:
    model = Student("tiny", 3, 4, 8, seed=0)
    tokens = torch.zeros(2, 4)
    tokens[1, 0] = 1
    probs = model.mask_logits(torch.randn(9, 8), tokens).sigmoid()
    assert not probs[0].any() and (probs[1] > 0).all()


def test_unknown_preset_is_refused() -> None:
    with pytest.raises(ValueError, match="minkunet14"):
        Student("huge", 3, 4, 8, seed=0)
