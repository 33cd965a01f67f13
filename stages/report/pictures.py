"""Pictures with masks and text: text drawing, contact sheets and overviews of queries.

Pictures are (h, w, 3) uint8 RGB unless a docstring says otherwise.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import textwrap
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.types import Array
from stages.report.scan_renderer import Viewpoint, mean_color

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
"""Unicode categories that are removed: control, format (which can turn the reading direction),

unassigned, line and paragraph separators.
"""
_LIKE = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2026": "...", "\u00d7": "x"}
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-")
)
"""Replacements for characters that Pillow's font lacks."""
_CUT = " ..."
_LONGEST_NAME = 80


@cache
def font(size: int) -> Font:
    """Return Pillow's own font, which is the same on every machine; ``size`` in pixels."""
    return ImageFont.load_default(size)


def plain(text: str) -> str:
    """Put ``text`` on one line without invisible characters; runs of blanks become one blank."""
    visible = (" " if unicodedata.category(letter) in _UNSEEN else letter for letter in text)
    return " ".join("".join(visible).split())


def wrapped(text: str, size: int, width: int, most: int) -> list[str]:
    """Break ``text`` into at most ``most`` lines, none wider than ``width`` pixels at ``size``.

    Words too long for a line are broken; a text that was cut ends in "...". Accents are removed;
    letters outside the Latin script appear as boxes. An empty text gives no line.
    """
    whole = plain(text)
    letters = unicodedata.normalize("NFKD", whole[: most * width].translate(_LIKE))
    words = "".join(letter for letter in letters if not unicodedata.combining(letter)).split()
    lines: list[str] = []
    while words and len(lines) < most:
        lines.append(_line(words, size, width))
    if lines and (words or len(whole) > most * width):
        while lines[-1] and _length(lines[-1] + _CUT, size) > width:
            lines[-1] = lines[-1][:-1]
        lines[-1] = lines[-1].rstrip() + _CUT
    return lines


def _line(words: list[str], size: int, width: int) -> str:
    """Take the words of one line from the front of ``words``."""
    line = words.pop(0)
    if _length(line, size) > width:
        lengths = range(len(line) + 1)
        fits = max(1, bisect_right(lengths, width, key=lambda n: ceil(_length(line[:n], size))) - 1)
        if line[fits:]:
            words.insert(0, line[fits:])
        return line[:fits]
    while words and _length(f"{line} {words[0]}", size) <= width:
        line = f"{line} {words.pop(0)}"
    return line


def _length(text: str, size: int) -> float:
    return font(size).getlength(text)


def file_name(text: str) -> str:
    """Turn ``text`` into a part of a file name: letters, digits, ".", "_" and "-", never hidden.

    Where characters were removed, a digest of the whole text keeps names distinct.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", text)[:_LONGEST_NAME].lstrip("._-")
    if safe and safe == text:
        return safe
    return f"{safe}_{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


WIDTH = 1400
"""Pixels across a contact sheet."""
Color = tuple[int, int, int]
INK, FAINT, HOLE = (25, 25, 25), (95, 95, 95), (225, 225, 225)
ORANGE, BLUE, GREEN, PURPLE = (230, 159, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167)
"""Colours of Okabe and Ito, distinct with any colour vision."""
_MARGIN, _GAP = 20, 14
_HEAD, _TITLE, _NOTE = 22, 15, 13
_LEADING = 1.3
_MASK_TINT = 0.55
_HATCH = 8


@dataclass(frozen=True, eq=False)
class SheetCell:
    """One picture of a contact sheet, with a title above and notes below, each on its own lines."""

    title: str
    picture: Array
    notes: tuple[str, ...] = ()
    note_lines: int = 2


def cell_width(columns: int) -> int:
    """Return the width in pixels of each picture of a sheet with ``columns`` columns."""
    return (WIDTH - 2 * _MARGIN - (columns - 1) * _GAP) // columns


def resized(picture: Array, width: int) -> Array:
    """Resize a picture to ``width`` pixels and keep its shape."""
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    if picture.shape[:2] == (height, width):
        return picture
    smooth = Image.Resampling.LANCZOS if picture.shape[1] > width else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(picture).resize((width, height), smooth))


def contact_sheet(
    heading: str, about: str, cells: Sequence[SheetCell], columns: int, key: Array | None = None
) -> Image.Image:
    """Draw cells in rows of ``columns``, each as wide as its column, and ``key`` at the foot.

    ``heading`` and ``about`` stand at the head.
    """
    width = cell_width(columns)
    pasted = [_drawn_cell(cell, width) for cell in cells]
    rows = [pasted[start : start + columns] for start in range(0, len(pasted), columns)]
    head = _written([(heading, _HEAD, INK, 3), (about, _NOTE + 1, FAINT, 3)], WIDTH - 2 * _MARGIN)
    parts = [[head], *rows, *([[Image.fromarray(key)]] if key is not None else [])]
    heights = [max((picture.height for picture in row), default=0) for row in parts]
    canvas = Image.new(
        "RGB", (WIDTH, sum(heights) + _GAP * (len(parts) - 1) + 2 * _MARGIN), "white"
    )
    top = _MARGIN
    for row, height in zip(parts, heights, strict=True):
        for column, picture in enumerate(row):
            canvas.paste(picture, (_MARGIN + column * (width + _GAP), top))
        top += height + _GAP
    return canvas


def _drawn_cell(content: SheetCell, width: int) -> Image.Image:
    title = _written([(content.title, _TITLE, INK, 1)], width)
    texts = [(note, _NOTE, FAINT, content.note_lines) for note in content.notes]
    notes, picture = _written(texts, width), Image.fromarray(resized(content.picture, width))
    cell = Image.new("RGB", (width, title.height + picture.height + notes.height + 6), "white")
    cell.paste(title, (0, 0))
    cell.paste(picture, (0, title.height + 2))
    cell.paste(notes, (0, title.height + picture.height + 6))
    return cell


def _written(texts: Sequence[tuple[str, int, Color, int]], width: int) -> Image.Image:
    """Draw texts below each other: (text, size, colour, most lines)."""
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
    """Encode a contact sheet as PNG."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def over(picture: Array, mask: Array, color: Color, border: Color = INK) -> Array:
    """Tint the pixels of ``mask`` (h, w) bool; other pixels stay as they are.

    The outermost pixels of the mask get the colour ``border``; a dark border shows a tint on a
    surface of its own colour.
    """
    tinted = picture.astype(np.float32)
    tinted[mask] = (1 - _MASK_TINT) * tinted[mask] + _MASK_TINT * np.asarray(color, np.float32)
    tinted[mask & ~_inside(mask)] = border
    return np.rint(tinted).astype(np.uint8)


def _inside(mask: Array) -> Array:
    """Find pixels whose four neighbours are in the mask, (h, w) bool; the outside counts too."""
    padded = np.pad(mask, 1, constant_values=True)
    across = padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(across & padded[:-2, 1:-1] & padded[2:, 1:-1])


def viridis(values: Array, low: float, high: float) -> Array:
    """Map values (...) from ``low`` (dark) to ``high`` (bright) to (..., 3) uint8 colours.

    The map is OpenCV's viridis, which has even steps and is readable with any colour vision.
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
    """Draw diagonal stripes, for pixels without a value."""
    v, u = np.indices((height, width))
    stripe = (u + v) % _HATCH < _HATCH // 3
    return np.where(stripe[..., None], np.array(FAINT), np.array(HOLE)).astype(np.uint8)


def pale(height: int, width: int) -> Array:
    """Draw an even light picture, the background of point pictures."""
    return np.full((height, width, 3), HOLE, np.uint8)


def scale(low: float, high: float, unit: str, about: str, hole: str, empty: Array) -> Array:
    """Draw the key of a viridis scale with ticks, and of ``hole``, which looks like ``empty``.

    ``empty`` is a picture of at least 16 x 32 pixels.
    """
    wide, tall, size = 420, 16, _NOTE
    canvas = Image.new("RGB", (WIDTH - 2 * _MARGIN, 2 * tall + _height(size) + 6), "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((0, 0), about, fill=INK, font=font(size))
    top = _height(size)
    canvas.paste(
        Image.fromarray(np.tile(viridis(np.arange(wide), 0, wide - 1), (tall, 1, 1))), (0, top)
    )
    for text, x, anchor in _ticks(low, high, unit, wide):
        pen.text((x, top + tall + 3), text, fill=FAINT, font=font(size), anchor=anchor)
    canvas.paste(Image.fromarray(empty[:tall, : 2 * tall]), (wide + 40, top))
    pen.text((wide + 80, top), hole, fill=INK, font=font(size))
    return np.asarray(canvas)


def _ticks(low: float, high: float, unit: str, wide: int) -> Iterator[tuple[str, int, str]]:
    for index, anchor in enumerate(("la", "ma", "ma", "ma", "ra")):
        label = f"{low + (high - low) * index / 4:.1f}".removesuffix(".0")
        yield label if index < 4 else f"{label} {unit}", wide * index // 4, anchor


BOTH, ONLY, MISSED = (0, 158, 115), (230, 159, 0), (86, 180, 233)
"""Green, orange and sky blue of Okabe and Ito, distinct with any colour vision."""
_TINT = 0.85


def best_viewpoint(viewpoints: list[Viewpoint], masks: list[Array]) -> tuple[Viewpoint, bool]:
    """Return the viewpoint that shows most of a mask, and whether any viewpoint shows a mask.

    The mask is the first of ``masks`` that any viewpoint shows.
    """
    for mask in masks:
        num_samples = [int(np.count_nonzero(viewpoint.shown(mask))) for viewpoint in viewpoints]
        if max(num_samples) > 0:
            return viewpoints[int(np.argmax(num_samples))], True
    return viewpoints[0], False


def paint(viewpoint: Viewpoint, mask: Array, other: Array, alone: tuple[int, int, int]) -> Array:
    """Draw ``mask`` on a scan, (H, W, 4) RGBA: ``BOTH`` where ``other`` agrees, else ``alone``.

    ``mask`` and ``other`` are (N,) bool; pixels outside the scene are transparent.
    """
    shown = viewpoint.shown(mask)
    pixels = np.flatnonzero(shown.any(axis=1))
    tinted, sample = shown[pixels], viewpoint.vertex[pixels]
    agree = np.append(other, False)[sample][..., None]
    tint = np.where(agree, np.array(BOTH, np.float32), np.array(alone, np.float32))
    tint = tint * (0.72 + 0.28 * viewpoint.light[pixels])[..., None]
    color = viewpoint.color[pixels]
    color = np.where(tinted[..., None], (1 - _TINT) * color + _TINT * tint, color)
    picture = viewpoint.picture.reshape(-1, 4).copy()
    picture[pixels] = mean_color(color, sample >= 0)
    return picture.reshape(viewpoint.picture.shape)


def paint_query(viewpoint: Viewpoint, masks: Mapping[str, Array], truth: Array) -> dict[str, Array]:
    """Draw one picture per source of ``masks`` and one named ``truth``.

    A prediction is green where it is right and orange where it is wrong; the truth is green where
    the first source found it and blue where that source missed it.
    """
    pictures = {name: paint(viewpoint, mask, truth, ONLY) for name, mask in masks.items()}
    first = next(iter(masks.values()), np.zeros_like(truth))
    pictures["truth"] = paint(viewpoint, truth, first, MISSED)
    return pictures


def webp(picture: Array) -> bytes:
    """Encode an RGBA picture (H, W, 4) uint8 as WebP."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "WEBP", quality=72, method=2, alpha_quality=60)
    return stream.getvalue()


def webp_uri(content: bytes) -> str:
    """Turn a WebP into a data URI, for a page that loads no file."""
    return "data:image/webp;base64," + base64.b64encode(content).decode()


@dataclass(frozen=True, eq=False)
class Tile:
    """One query of the overview: its caption lines and its two pictures, RGBA of one size."""

    sentence: str
    scores: str
    left: Array
    right: Array


Legend = Sequence[tuple[tuple[int, int, int], str]]
_LEGEND: Legend = ((BOTH, "predicted and true"), (ONLY, "predicted, not true"), (MISSED, "missed"))


def overview(
    tiles: Sequence[Tile],
    names: tuple[str, str] = ("prediction", "truth"),
    legend: Legend = _LEGEND,
) -> bytes:
    """Draw all tiles in two columns on white, as PNG; ``names`` title a tile's two pictures."""
    if not tiles:
        return _png(Image.new("RGB", (64, 64), "white"))
    height, width = tiles[0].left.shape[:2]
    cell = (2 * width + 24, height + 74)
    columns = min(len(tiles), 2)
    rows = -(-len(tiles) // columns)
    canvas = Image.new("RGB", (columns * cell[0], rows * cell[1] + 34), "white")
    draw = ImageDraw.Draw(canvas)
    for index, tile in enumerate(tiles):
        origin = (index % columns * cell[0], index // columns * cell[1])
        _draw_tile(canvas, tile, origin, names)
    _draw_legend(draw, rows * cell[1] + 6, legend)
    return _png(canvas)


def _draw_tile(
    canvas: Image.Image, tile: Tile, origin: tuple[int, int], names: tuple[str, str]
) -> None:
    """Draw a tile's caption and, below it, its two pictures."""
    draw, width = ImageDraw.Draw(canvas), tile.left.shape[1]
    left, top = origin[0] + 12, origin[1] + 8
    font, small = ImageFont.load_default(17), ImageFont.load_default(13)
    characters = max(10, int(2 * width / 8.6))
    sentence = textwrap.shorten(tile.sentence, characters, placeholder=" ...")
    draw.text((left, top), sentence, fill=(20, 20, 20), font=font)
    draw.text((left, top + 24), tile.scores, fill=(90, 90, 90), font=small)
    for column, (name, picture) in enumerate(zip(names, (tile.left, tile.right), strict=True)):
        x = left + column * width
        image = Image.fromarray(picture)
        canvas.paste(image, (x, top + 52), image)
        draw.text((x, top + 44), name, fill=(90, 90, 90), font=small)


def _draw_legend(draw: ImageDraw.ImageDraw, top: int, legend: Legend) -> None:
    font, x = ImageFont.load_default(14), 12
    for color, text in legend:
        draw.rectangle((x, top + 3, x + 14, top + 17), fill=color)
        draw.text((x + 20, top), text, fill=(40, 40, 40), font=font)
        x += 44 + int(draw.textlength(text, font=font))


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()
