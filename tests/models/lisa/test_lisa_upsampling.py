"""LISA's masks at the image's own size against golden runs and written-out weights."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from models.lisa.images import resized_size, upsample_masks

GOLDEN = Path(__file__).parents[2] / "golden" / "lisa"
SAMPLES = [("v1", index) for index in range(5)] + [("plus", index) for index in range(3)]


@cache
def _golden(name: str) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    with np.load(GOLDEN / name / "tensors.npz") as file:
        wanted = ("low_res_masks", "mask_logits")
        arrays = {key: file[key] for key in file.files if key.endswith(wanted)}
    return json.loads((GOLDEN / name / "golden.json").read_text("utf-8")), arrays


def _upsampled(name: str, index: int) -> tuple[Tensor, NDArray[np.float32], int]:
    content, arrays = _golden(name)
    sample = content["samples"][index]
    low_res = torch.from_numpy(arrays[f"sample{index}__low_res_masks"])[:, 0]
    resized, original = tuple(sample["resized_size"]), tuple(sample["original_size"])
    masks = upsample_masks(low_res, content["sam_image_size"], resized, original)
    assert list(masks.shape) == sample["mask_shape"]
    return masks, arrays[f"sample{index}__mask_logits"], sample["mask_logits_stride"]


@pytest.mark.parametrize(("name", "index"), SAMPLES)
def test_golden_masks(name: str, index: int) -> None:
    masks, golden, stride = _upsampled(name, index)
    found = masks[:, ::stride, ::stride]
    assert found.shape == golden.shape and found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), golden, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found.numpy() > 0, golden > 0)


@pytest.mark.parametrize(("name", "index"), [("v1", 0), ("v1", 2), ("v1", 4), ("plus", 1)])
def test_one_step_upsampling_breaks_the_golden_masks(name: str, index: int) -> None:
    """Cropping the low-resolution mask itself and resizing once is not the same."""
    content, arrays = _golden(name)
    sample = content["samples"][index]
    low_res = torch.from_numpy(arrays[f"sample{index}__low_res_masks"])
    cells = [
        round(n * low_res.shape[-1] / max(sample["resized_size"])) for n in sample["resized_size"]
    ]
    once = F.interpolate(
        low_res[..., : cells[0], : cells[1]], sample["original_size"], mode="bilinear"
    )
    two_steps, _, _ = _upsampled(name, index)
    assert (once[:, 0] - two_steps).abs().max() > 1e-2


def _bilinear(length: int, target: int) -> NDArray[np.float64]:
    """(target, length) weights of half-pixel bilinear resizing, written out."""
    centres = np.clip((np.arange(target) + 0.5) * length / target - 0.5, 0, length - 1)
    distances = np.abs(centres[:, None] - np.arange(length))
    weights: NDArray[np.float64] = np.maximum(1 - distances, 0.0)
    return weights


@settings(max_examples=30)
@given(st.integers(0, 3), st.integers(1, 40), st.integers(1, 40), st.integers(0, 999))
def test_masks_of_any_size_against_written_out_weights(
    number: int, height: int, width: int, seed: int
) -> None:
    low_res = np.random.default_rng(seed).normal(size=(number, 8, 8)).astype(np.float32)
    resized = resized_size(height, width, 32)
    found = upsample_masks(torch.from_numpy(low_res), 32, resized, (height, width))
    rows = _bilinear(resized[0], height) @ _bilinear(8, 32)[: resized[0]]
    columns = _bilinear(resized[1], width) @ _bilinear(8, 32)[: resized[1]]
    expected = np.einsum("ih,nhw,jw->nij", rows, low_res, columns)
    assert found.shape == (number, height, width)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-5)


def test_half_precision_masks_are_upsampled_in_float32() -> None:
    low_res = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = upsample_masks(low_res, 32, (32, 24), (64, 48))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, upsample_masks(low_res.float(), 32, (32, 24), (64, 48)))
    assert upsample_masks(low_res[:0], 32, (32, 24), (64, 48)).dtype == torch.float32
