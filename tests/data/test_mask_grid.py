"""Mask cells to pixels: against torch where the grid is covered, by hand where it is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from data.images import cells_to_pixels
from data.types import Array

SIZES = st.tuples(st.integers(1, 12), st.integers(1, 12))


def masks(count: int, height: int, width: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, height, width)).astype(np.float32)


@given(st.integers(0, 3), SIZES, SIZES, st.integers(0, 1000))
def test_a_covered_grid_is_torchs_bilinear(
    count: int, cells: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    logits = masks(count, *cells, seed)
    pixels = cells_to_pixels(logits, (float(cells[1]), float(cells[0])), size)
    assert pixels.shape == (count, *size) and pixels.dtype == np.float32
    if count:
        expected = functional.interpolate(
            torch.from_numpy(logits)[None], size, mode="bilinear", align_corners=False
        )[0]
        assert np.abs(pixels - expected.numpy()).max() < 1e-5


def test_half_a_grid_by_hand() -> None:
    # Two pixels across over cells 0 and 1 of four: their centres are those of the cells.
    logits = np.array([[[1, 2, 4, 8], [10, 20, 40, 80]]], np.float32)
    np.testing.assert_allclose(cells_to_pixels(logits, (2, 2), (2, 2)), [[[1, 2], [10, 20]]])
    # Four pixels over the same: centres at cells -0.25, 0.25, 0.75, 1.25.
    pixels = cells_to_pixels(logits[:, :1], (2, 1), (1, 4))
    np.testing.assert_allclose(pixels, [[[1, 1.25, 1.75, 2.5]]])
    # Half the rows: one pixel down, its centre at the first row's.
    np.testing.assert_allclose(cells_to_pixels(logits, (4, 1), (1, 4)), logits[:, :1])


@given(SIZES, SIZES, st.floats(0.1, 1), st.floats(0.1, 1), st.floats(-50, 50))
def test_a_constant_stays_what_it_is(
    cells: tuple[int, int], size: tuple[int, int], across: float, down: float, value: float
) -> None:
    logits = np.full((1, *cells), value, np.float32)
    pixels = cells_to_pixels(logits, (across * cells[1], down * cells[0]), size)
    assert np.abs(pixels - np.float32(value)).max() <= 1e-5 * max(abs(value), 1)


@pytest.mark.parametrize("scale", [2, 5])
def test_padded_images_are_served_as_if_cut_out(scale: int) -> None:
    # A 2:3 picture at the top of a 60 x 60 grid, as SAM pads it: what is below adds nothing.
    logits = masks(2, 60, 60, 7)
    size = (40 * scale, 60 * scale)
    whole = cells_to_pixels(logits, (60, 40), size)
    cut = logits.copy()
    cut[:, 41:] = 1e6
    assert np.array_equal(whole, cells_to_pixels(cut, (60, 40), size))
    padded = functional.interpolate(
        torch.from_numpy(logits)[None], (60 * scale, 60 * scale), mode="bilinear"
    )[0, :, : size[0]]
    assert np.abs(whole - padded.numpy()).max() < 1e-4


def test_a_plane_is_read_where_pixels_lie() -> None:
    rows, columns = np.meshgrid(np.arange(8) + 0.5, np.arange(10) + 0.5, indexing="ij")
    plane = (3 * columns - 2 * rows + 1)[None].astype(np.float32)
    extent, size = (7.5, 4.8), (16, 30)
    v, u = np.meshgrid(np.arange(16) + 0.5, np.arange(30) + 0.5, indexing="ij")
    x, y = u / 30 * extent[0], v / 16 * extent[1]
    inside = (x >= 0.5) & (y >= 0.5)
    expected = 3 * x - 2 * y + 1
    pixels = cells_to_pixels(plane, extent, size)[0]
    np.testing.assert_allclose(pixels[inside], expected[inside], rtol=0, atol=1e-4)
