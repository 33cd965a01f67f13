"""The network: what it depends on, what it must not depend on, and empty queries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from data.geometry.voxels import voxelise
from models.sparse import layers
from models.sparse.unet import PRESETS, Layout, SparseUNet
from models.student import Pooling, Student
from stages.student.training_samples import find_parts

SMALL = Layout(4, 3, ((6, 1), (8, 2)), ((8, 1), (6, 0)))


def cloud(seed: int, count: int = 600) -> tuple[Tensor, Tensor, Pooling]:
    """Features (M, 7) and indices (M, 4) of a random scene, and its five superpoints."""
    rng = np.random.default_rng(seed)
    voxels = voxelise(rng.uniform(0, 2, (count, 3)), 0.15)
    coords = voxels.grid_coords
    indices = torch.from_numpy(np.pad(coords, ((0, 0), (1, 0)))).contiguous()
    parts = find_parts(voxels.point_to_voxel, rng.integers(0, 5, count))
    voxel, superpoint, share = (torch.from_numpy(part) for part in parts)
    how = Pooling(voxel, superpoint, share, 5)
    return torch.from_numpy(rng.normal(size=(len(coords), 7)).astype(np.float32)), indices, how


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_run_and_every_weight_learns(preset: str) -> None:
    model = Student(preset, 5, 8, seed=0, learnt_fusion=True)
    features, indices, how = cloud(0, 150)
    (output,) = model(features, indices, [how])
    views, poses = torch.eye(4, 5).reshape(2, 2, 5), torch.randn(2, 6)
    fused = model.fuse(views, torch.full((2, 2), 0.5), torch.ones(2, 2), poses)
    logits = model.mask_logits(output.mask, fused.tokens)
    loss = logits.square().mean() + output.token.square().mean()
    loss.backward()
    assert output.mask.shape == (5, 8) and output.token.shape == (5, 5)
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_weights_depend_on_the_seed_only() -> None:
    torch.manual_seed(1)
    a = Student("tiny", 5, 8, seed=0, learnt_fusion=True).state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    b, c, closed = (
        Student("tiny", 5, 8, seed=0, learnt_fusion=True).state_dict(),
        Student("tiny", 5, 8, seed=1, learnt_fusion=True).state_dict(),
        Student("tiny", 5, 8, seed=0).state_dict(),
    )
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert all(torch.equal(a[name], closed[name]) for name in closed)
    assert {name.split(".")[0] for name in a.keys() - closed.keys()} == {"fusion"}
    assert not torch.equal(a["token_map.weight"], c["token_map.weight"])
    assert not torch.equal(a["fusion.enter.weight"], c["fusion.enter.weight"])
    gram = a["token_map.weight"].T @ a["token_map.weight"]
    assert torch.allclose(gram, torch.eye(5), atol=1e-5)


def test_order_of_voxels_does_not_matter() -> None:
    model = SparseUNet(7, SMALL).eval()
    features, indices, _ = cloud(1)
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    plain = model(features, indices, 1)
    assert plain.shape == (len(features), model.out_channels)
    shuffled = model(features[order], indices[order].contiguous(), 1)
    assert torch.allclose(plain[order], shuffled, atol=1e-4)


@pytest.mark.parametrize("preset", ["tiny", "minkunet14"])
def test_joins_found_ahead_are_all_that_are_needed(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SparseUNet(7, PRESETS[preset]).eval()
    features, indices, _ = cloud(6)
    plain = model(features, indices, 1)
    books = model.rulebooks(indices)
    for search in ("submanifold_rulebook", "halve"):
        monkeypatch.delattr(layers, search)
    assert torch.equal(model(features, indices, 1, books), plain)
    with pytest.raises(NameError):
        model(features, indices, 1)


def test_scenes_of_a_batch_do_not_mix_when_predicting() -> None:
    model = Student("tiny", 5, 8, seed=0).eval()
    scenes = [cloud(2), cloud(3, 200)]
    numbers = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0]], dtype=torch.int32)
    both = torch.cat([scene[1] + number for scene, number in zip(scenes, numbers)]).contiguous()
    together = model(torch.cat([scene[0] for scene in scenes]), both, [s[2] for s in scenes])
    for (features, indices, how), mixed in zip(scenes, together, strict=True):
        (alone,) = model(features, indices, [how])
        assert torch.allclose(mixed.mask, alone.mask, atol=1e-4)
        assert torch.allclose(mixed.token, alone.token, atol=1e-4)


def test_superpoints_of_the_same_points_have_the_same_features_in_any_order() -> None:
    model = Student("tiny", 5, 8, seed=0).eval()
    features, indices, how = cloud(5, 80)
    twin = how.superpoint == 2
    doubled = Pooling(
        torch.cat([how.voxel, how.voxel[twin]]).flip(0),
        torch.cat([how.superpoint, how.superpoint[twin] + 3]).flip(0),
        torch.cat([how.share, how.share[twin]]).flip(0),
        6,
    )
    (plain,) = model(features, indices, [how])
    (more,) = model(features, indices, [doubled])
    assert torch.allclose(more.mask[:5], plain.mask, atol=1e-5)
    assert torch.allclose(more.mask[5], plain.mask[2], atol=1e-5)
    assert not torch.allclose(plain.mask[2], plain.mask[3], atol=1e-2)


def test_whole_coarsest_cells_may_shift() -> None:
    model = SparseUNet(7, SMALL).eval()
    features, indices, _ = cloud(4)
    shifted = indices + torch.tensor([0, 4, 8, 0], dtype=torch.int32)
    assert torch.allclose(model(features, indices, 1), model(features, shifted, 1), atol=1e-4)


def test_mask_logits_by_hand_and_scale_of_tokens() -> None:
    model = Student("tiny", 2, 2, seed=0)
    with torch.no_grad():
        model.token_map.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        model.scale.fill_(3.0)
        model.bias.fill_(-1.0)
    features = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    logits = model.mask_logits(features, torch.tensor([[5.0, 0.0], [0.0, 0.1]]))
    assert torch.allclose(logits, torch.tensor([[2.0, -1.0], [11.0, -7.0]]))


def test_a_zero_token_gives_an_empty_mask() -> None:
    model = Student("tiny", 4, 8, seed=0)
    tokens = torch.zeros(2, 4)
    tokens[1, 0] = 1
    probs = model.mask_logits(torch.randn(9, 8), tokens).sigmoid()
    assert not probs[0].any() and (probs[1] > 0).all()


def test_the_closed_form_knows_neither_belief_nor_pose() -> None:
    model = Student("tiny", 2, 4, seed=0)
    views, weights = torch.tensor([[[2.0, 0.0], [0.0, 9.0]]]), torch.tensor([[0.3, 0.4]])
    fused = model.fuse(views, weights, torch.rand(1, 2), torch.randn(2, 6))
    assert torch.allclose(fused.tokens, torch.tensor([[0.6, 0.8]]))


def test_unknown_preset_is_refused() -> None:
    with pytest.raises(ValueError, match="minkunet14"):
        Student("huge", 4, 8, seed=0)
