"""Contact sheets: titled pictures in rows on one page, colour scales, masks over pictures.

Pictures are (h, w, 3) uint8 RGB throughout.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from data.types import Array
from stages.lettering import font, wrapped

WIDTH = 1400
"""Pixels across a sheet."""
Color = tuple[int, int, int]
INK, FAINT, HOLE = (25, 25, 25), (95, 95, 95), (225, 225, 225)
ORANGE, BLUE, GREEN, PURPLE = (230, 159, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167)
"""Okabe and Ito's: told apart with any colour vision."""
_MARGIN, _GAP = 20, 14
_HEAD, _TITLE, _NOTE = 22, 15, 13
_LEADING = 1.3
_TINT = 0.55
_HATCH = 8


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture of a sheet, a title above it and notes below, each on lines of its own."""

    title: str
    picture: Array
    notes: tuple[str, ...] = ()
    note_lines: int = 2


def cell_width(columns: int) -> int:
    """Pixels across each picture of a sheet with so many columns."""
    return (WIDTH - 2 * _MARGIN - (columns - 1) * _GAP) // columns


def resized(picture: Array, width: int) -> Array:
    """A picture at that width, its shape kept."""
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    if picture.shape[:2] == (height, width):
        return picture
    smooth = Image.Resampling.LANCZOS if picture.shape[1] > width else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(picture).resize((width, height), smooth))


def sheet(
    heading: str, about: str, panels: Sequence[Panel], columns: int, key: Array | None = None
) -> Image.Image:
    """All panels in rows of ``columns``, each as wide as its column; ``key`` at the foot."""
    width = cell_width(columns)
    cells = [_cell(panel, width) for panel in panels]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    head = _written([(heading, _HEAD, INK, 3), (about, _NOTE + 1, FAINT, 3)], WIDTH - 2 * _MARGIN)
    parts = [[head], *rows, *([[Image.fromarray(key)]] if key is not None else [])]
    heights = [max((one.height for one in row), default=0) for row in parts]
    canvas = Image.new(
        "RGB", (WIDTH, sum(heights) + _GAP * (len(parts) - 1) + 2 * _MARGIN), "white"
    )
    top = _MARGIN
    for row, height in zip(parts, heights, strict=True):
        for column, one in enumerate(row):
            canvas.paste(one, (_MARGIN + column * (width + _GAP), top))
        top += height + _GAP
    return canvas


def _cell(panel: Panel, width: int) -> Image.Image:
    title = _written([(panel.title, _TITLE, INK, 1)], width)
    texts = [(note, _NOTE, FAINT, panel.note_lines) for note in panel.notes]
    notes, picture = _written(texts, width), Image.fromarray(resized(panel.picture, width))
    cell = Image.new("RGB", (width, title.height + picture.height + notes.height + 6), "white")
    cell.paste(title, (0, 0))
    cell.paste(picture, (0, title.height + 2))
    cell.paste(notes, (0, title.height + picture.height + 6))
    return cell


def _written(texts: Sequence[tuple[str, int, Color, int]], width: int) -> Image.Image:
    """Texts below each other: (text, size, colour, most lines)."""
    lines = [
        (line, size, color)
        for text, size, color, most in texts
        for line in wrapped(text, size, width, most)
    ]
    canvas = Image.new("RGB", (width, sum(_height(size) for _, size, _ in lines)), "white")
    pen, top = ImageDraw.Draw(canvas), 0
    for line, size, color in lines:
        pen.text((0, top), line, fill=color, font=font(size))
        top += _height(size)
    return canvas


def _height(size: int) -> int:
    return round(size * _LEADING)


def png(image: Image.Image) -> bytes:
    """A sheet as PNG."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def over(picture: Array, mask: Array, color: Color, border: Color = INK) -> Array:
    """``picture`` with the pixels of ``mask`` (h, w) bool tinted, and no other pixel changed.

    The mask's outermost pixels are ``border``: dark ones show where a tint is on its own colour.
    """
    tinted = picture.astype(np.float32)
    tinted[mask] = (1 - _TINT) * tinted[mask] + _TINT * np.asarray(color, np.float32)
    tinted[mask & ~_inside(mask)] = border
    return np.rint(tinted).astype(np.uint8)


def _inside(mask: Array) -> Array:
    """(h, w) bool: pixels whose four neighbours are in the mask; outside the picture counts."""
    padded = np.pad(mask, 1, constant_values=True)
    across = padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(across & padded[:-2, 1:-1] & padded[2:, 1:-1])


def viridis(values: Array, low: float, high: float) -> Array:
    """(..., 3) uint8 colours of values (...) on a scale from ``low`` (dark) to ``high`` (bright).

    The map is OpenCV's viridis, whose steps look alike and which any colour vision reads.
    """
    share = (np.asarray(values, np.float64) - low) / max(high - low, 1e-9)
    return np.asarray(_viridis()[np.rint(np.clip(np.nan_to_num(share), 0, 1) * 255).astype(int)])


@cache
def _viridis() -> Array:
    """(256, 3) uint8."""
    import cv2  # Takes long to import; planning a run imports the stages.

    levels = np.arange(256, dtype=np.uint8)[:, None]
    return np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[:, 0, ::-1])


def hatched(height: int, width: int) -> Array:
    """A picture of diagonal stripes, for where there is nothing."""
    v, u = np.indices((height, width))
    stripe = (u + v) % _HATCH < _HATCH // 3
    return np.where(stripe[..., None], np.array(FAINT), np.array(HOLE)).astype(np.uint8)


def pale(height: int, width: int) -> Array:
    """An even light picture, for where points leave gaps."""
    return np.full((height, width, 3), HOLE, np.uint8)


def scale(low: float, high: float, unit: str, about: str, hole: str, empty: Array) -> Array:
    """The key of a viridis scale, with ticks, and of ``hole``, which looks as ``empty`` does.

    ``empty`` is a picture of any size not under 16 x 32 pixels.
    """
    wide, tall, size = 420, 16, _NOTE
    canvas = Image.new("RGB", (WIDTH - 2 * _MARGIN, 2 * tall + _height(size) + 6), "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((0, 0), about, fill=INK, font=font(size))
    top = _height(size)
    canvas.paste(
        Image.fromarray(np.tile(viridis(np.arange(wide), 0, wide - 1), (tall, 1, 1))), (0, top)
    )
    for text, at, anchor in _ticks(low, high, unit, wide):
        pen.text((at, top + tall + 3), text, fill=FAINT, font=font(size), anchor=anchor)
    canvas.paste(Image.fromarray(empty[:tall, : 2 * tall]), (wide + 40, top))
    pen.text((wide + 80, top), hole, fill=INK, font=font(size))
    return np.asarray(canvas)


def _ticks(low: float, high: float, unit: str, wide: int) -> Iterator[tuple[str, int, str]]:
    for index, anchor in enumerate(("la", "ma", "ma", "ma", "ra")):
        told = f"{low + (high - low) * index / 4:.1f}".removesuffix(".0")
        yield told if index < 4 else f"{told} {unit}", wide * index // 4, anchor
