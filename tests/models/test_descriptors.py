"""Means over superpoints and what describes them, against plain numpy and by hand."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.student import DESCRIPTOR_DIM, Pooling, describe, pool

TURN = torch.tensor([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
"""A quarter turn about the vertical axis: it keeps the grid."""


def scene(seed: int) -> tuple[Tensor, Tensor, Pooling]:
    """60 voxels of 4 superpoints, of which the last has none; some voxels belong to two."""
    rng = np.random.default_rng(seed)
    normals = rng.normal(size=(60, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    features = np.column_stack([rng.uniform(-1, 1, (60, 4)), normals]).astype(np.float32)
    shares = rng.random((3, 60)) * (rng.random((3, 60)) < 0.5)
    shares /= shares.sum(1, keepdims=True)
    superpoint, voxel = np.nonzero(shares)
    share = torch.from_numpy(shares[superpoint, voxel].astype(np.float32))
    how = Pooling(torch.from_numpy(voxel), torch.from_numpy(superpoint), share, 4)
    coords = torch.from_numpy(rng.integers(0, 30, (60, 3)).astype(np.int32))
    return torch.from_numpy(features), coords, how


def test_pooling_equals_a_dense_matrix_product() -> None:
    rng = np.random.default_rng(0)
    shares = rng.random((6, 9)) * (rng.random((6, 9)) < 0.4)
    shares[2] = 0  # A superpoint without a point.
    shares[np.arange(6) != 2, 0] += 0.1
    shares /= np.maximum(shares.sum(1, keepdims=True), 1e-9)
    superpoint, voxel = (part[::-1].copy() for part in np.nonzero(shares))
    share = shares[superpoint, voxel]
    features = rng.normal(size=(9, 4))
    how = Pooling(torch.from_numpy(voxel), torch.from_numpy(superpoint), torch.from_numpy(share), 6)
    x = torch.from_numpy(features).requires_grad_()
    np.testing.assert_allclose(pool(x, how).detach(), shares @ features, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: pool(x, how), (x,))


def test_pooling_takes_shares_into_half_precision() -> None:
    share = torch.tensor([0.25, 0.75, 1.0])
    how = Pooling(torch.arange(3), torch.tensor([0, 0, 1]), share, 2)
    pooled = pool(torch.tensor([[4.0], [8.0], [3.0]], dtype=torch.float16), how)
    assert pooled.dtype == torch.float16 and pooled.tolist() == [[7.0], [3.0]]


def test_two_voxels_by_hand() -> None:
    """One red and one blue voxel, 6 apart along x; normals up and along y; the scene is both."""
    features = torch.tensor([[1.0, -1, -1, 0.5, 0, 0, 1], [-1.0, -1, 1, 0.1, 0, 1, 0]])
    coords = torch.tensor([[0, 4, 2], [6, 4, 2]])
    how = Pooling(torch.tensor([0, 1]), torch.tensor([0, 0]), torch.tensor([0.5, 0.5]), 1)
    (row,) = describe(features, coords, how).tolist()
    color = [0, -1, 0, 0.3, 0.5, 0.5]
    spread = [1, 0, 1, 0.5**0.5]
    extents = [np.log(3.3), np.log(0.3), np.log(0.3), np.log(2) / 3, 0]
    np.testing.assert_allclose(row, color + spread + extents, atol=1e-6)


def test_extents_are_the_roots_of_the_eigenvalues_of_numpys_covariance() -> None:
    features, coords, how = scene(0)
    rows = describe(features, coords, how).numpy()
    for superpoint in range(3):
        inside = how.superpoint == superpoint
        weights, places = how.share[inside].numpy(), coords[how.voxel[inside]].numpy()
        covariance = np.cov(places.T, aweights=weights, ddof=0)
        short, long = np.sqrt(np.linalg.eigvalsh(covariance[:2, :2]))
        up = np.sqrt(covariance[2, 2])
        np.testing.assert_allclose(np.exp(rows[superpoint, 10:13]) - 0.3, [long, short, up], 1e-4)
        middle = np.average(places, axis=0, weights=weights) - coords.numpy().mean(0)
        np.testing.assert_allclose(rows[superpoint, 14] * 20, np.linalg.norm(middle[:2]), 1e-4)


def test_turning_mirroring_and_moving_the_scene_changes_nothing() -> None:
    features, coords, how = scene(1)
    plain = describe(features, coords, how)
    for turn in (TURN, TURN @ TURN, torch.diag(torch.tensor([-1, 1, 1]))):
        turned = features.clone()
        turned[:, 4:] = features[:, 4:] @ turn.float().T
        moved = coords @ turn.int().T + torch.tensor([5, -3, 7], dtype=torch.int32)
        assert torch.allclose(describe(turned, moved, how), plain, atol=1e-5)


def test_a_superpoint_without_a_voxel_has_finite_numbers() -> None:
    rows = describe(*scene(2))
    assert rows.shape == (4, DESCRIPTOR_DIM) and rows.isfinite().all()
