"""Contact sheets: their pixels, scales and masks, counted by hand."""

from __future__ import annotations

import numpy as np

from data.types import Array
from stages.report.pictures import (
    HOLE,
    INK,
    WIDTH,
    SheetCell,
    cell_width,
    contact_sheet,
    hatched,
    over,
    pale,
    resized,
    scale,
    viridis,
)


def _flat(height: int, width: int, value: int) -> Array:
    return np.full((height, width, 3), value, np.uint8)


def test_an_overlay_covers_exactly_the_mask() -> None:
    picture = _flat(12, 20, 100)
    mask = np.zeros((12, 20), bool)
    mask[3:8, 5:11] = True
    drawn = over(picture, mask, (200, 0, 0))
    np.testing.assert_array_equal((drawn != picture).any(axis=2), mask)
    inner = np.zeros_like(mask)
    inner[4:7, 6:10] = True
    # 0.45 * 100 + 0.55 * 200 and 0.45 * 100 + 0.
    assert (drawn[inner] == (155, 45, 45)).all()
    assert (drawn[mask & ~inner] == INK).all()
    assert (picture == 100).all()


def test_a_mask_has_no_border_where_the_picture_ends() -> None:
    whole = over(_flat(4, 4, 0), np.ones((4, 4), bool), (100, 100, 100))
    assert (whole == 55).all()
    np.testing.assert_array_equal(over(_flat(4, 4, 9), np.zeros((4, 4), bool), INK), _flat(4, 4, 9))


def test_the_scale_is_viridis_as_published() -> None:
    """Values of Smith and van der Walt's table at its ends and middle."""
    colors = viridis(np.array([[1.0, 2.0, 3.0], [0.0, 9.0, np.nan]]), 1, 3)
    assert colors.shape == (2, 3, 3)
    expected = [[(68, 1, 84), (33, 145, 140), (253, 231, 37)], [(68, 1, 84), (253, 231, 37)]]
    assert np.abs(colors[0].astype(int) - expected[0]).max() <= 1
    assert np.abs(colors[1, :2].astype(int) - expected[1]).max() <= 1
    assert (viridis(np.array([5.0]), 5, 5) == colors[0, 0]).all()


def test_panels_stand_in_rows_and_nothing_runs_out_of_its_column() -> None:
    width = cell_width(2)
    hostile = "<img src=x onerror=alert(1)>\n\u202e\u05d0\u05d1 " + "W" * 3000
    cells = [SheetCell(hostile, _flat(50, width, value), (hostile,)) for value in (10, 60, 110)]
    page = np.asarray(contact_sheet(hostile, hostile, cells, 2))
    assert page.shape[1] == WIDTH
    assert (page[:, :20] == 255).all() and (page[:, -20:] == 255).all()
    for value, left in ((10, 20), (60, 34 + width), (110, 20)):
        column = (page[:, left : left + width] == value).all(axis=(1, 2))
        assert np.count_nonzero(column) == 50
    rows = [np.flatnonzero((page[:, 20 : 20 + width] == v).all(axis=(1, 2))) for v in (10, 110)]
    assert rows[0].max() < rows[1].min()
    gap = page[rows[0].min() :, 20 + width : WIDTH - 20 - width]
    assert gap.shape[1] == 14 and (gap == 255).all()


def test_titles_and_notes_are_drawn() -> None:
    def ink(title: str, notes: tuple[str, ...]) -> int:
        page = np.asarray(contact_sheet("", "", [SheetCell(title, _flat(9, 9, 255), notes)], 1))
        return int(np.count_nonzero(page < 255))

    assert 0 == ink("", ()) < ink("a", ()) < ink("a", ("b",)) < ink("<b>a</b>", ("b",))


def test_pictures_keep_their_shape() -> None:
    picture = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    assert resized(picture, 8) is picture
    assert resized(picture, 20).shape == (15, 20, 3)
    assert resized(picture, 4).shape == (3, 4, 3)
    assert resized(_flat(1, 500, 7), 10).shape == (1, 10, 3)


def test_nothing_looks_like_nothing_on_the_scale() -> None:
    assert len(np.unique(hatched(32, 32).reshape(-1, 3), axis=0)) == 2
    assert (pale(3, 4) == HOLE).all()
    key = scale(0, 100, "levels", "difference", "no point", pale(64, 64))
    dark, bright = np.array((68, 1, 84)), np.array((253, 231, 37))
    row = key[17 + 8].astype(int)
    assert np.abs(row[0] - dark).max() <= 1 and np.abs(row[419] - bright).max() <= 1
    assert (row[462:490] == HOLE).all()
