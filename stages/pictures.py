"""Pictures of masks on a scene's dollhouse, and the overview of several queries."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.types import Array
from stages.dollhouse import Corner, mean_color

BOTH, ONLY, MISSED = (0, 158, 115), (230, 159, 0), (86, 180, 233)
"""Okabe and Ito's green, orange and sky blue: told apart with any colour vision."""
_TINT = 0.85


def best_corner(corners: list[Corner], masks: list[Array]) -> tuple[Corner, bool]:
    """The corner that shows most of the first mask that any corner shows, and whether one does."""
    for mask in masks:
        seen = [int(np.count_nonzero(corner.shown(mask))) for corner in corners]
        if max(seen) > 0:
            return corners[int(np.argmax(seen))], True
    return corners[0], False


def paint(corner: Corner, mask: Array, other: Array, alone: tuple[int, int, int]) -> Array:
    """RGBA picture (H, W, 4) uint8 of ``mask``: ``BOTH`` where ``other`` agrees, else ``alone``.

    ``mask`` and ``other`` are (N,) bool; pixels outside the scene are transparent.
    """
    shown = corner.shown(mask)
    pixels = np.flatnonzero(shown.any(axis=1))
    tinted, sample = shown[pixels], corner.vertex[pixels]
    agree = np.append(other, False)[sample][..., None]
    tint = np.where(agree, np.array(BOTH, np.float32), np.array(alone, np.float32))
    tint = tint * (0.72 + 0.28 * corner.light[pixels])[..., None]
    color = corner.color[pixels]
    color = np.where(tinted[..., None], (1 - _TINT) * color + _TINT * tint, color)
    picture = corner.picture.reshape(-1, 4).copy()
    picture[pixels] = mean_color(color, sample >= 0)
    return picture.reshape(corner.picture.shape)


def paint_query(corner: Corner, masks: Mapping[str, Array], truth: Array) -> dict[str, Array]:
    """One picture per source of ``masks`` and one named ``truth``, set against each other.

    A prediction is green where it is right and orange where it is not; the truth is green where
    the first source found it and blue where that missed it.
    """
    pictures = {name: paint(corner, mask, truth, ONLY) for name, mask in masks.items()}
    first = next(iter(masks.values()), np.zeros_like(truth))
    pictures["truth"] = paint(corner, truth, first, MISSED)
    return pictures


def webp(picture: Array) -> bytes:
    """An RGBA picture (H, W, 4) uint8 as WebP."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "WEBP", quality=72, method=2, alpha_quality=60)
    return stream.getvalue()


def webp_uri(content: bytes) -> str:
    """A WebP for a page that loads nothing."""
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
    """PNG of all tiles in two columns on white; ``names`` are those of their two pictures."""
    if not tiles:
        return _png(Image.new("RGB", (64, 64), "white"))
    height, width = tiles[0].left.shape[:2]
    cell = (2 * width + 24, height + 74)
    columns = min(len(tiles), 2)
    rows = -(-len(tiles) // columns)
    canvas = Image.new("RGB", (columns * cell[0], rows * cell[1] + 34), "white")
    draw = ImageDraw.Draw(canvas)
    for index, tile in enumerate(tiles):
        corner = (index % columns * cell[0], index // columns * cell[1])
        _draw_tile(canvas, tile, corner, names)
    _draw_legend(draw, rows * cell[1] + 6, legend)
    return _png(canvas)


def _draw_tile(
    canvas: Image.Image, tile: Tile, corner: tuple[int, int], names: tuple[str, str]
) -> None:
    """Caption above, both pictures below."""
    draw, width = ImageDraw.Draw(canvas), tile.left.shape[1]
    left, top = corner[0] + 12, corner[1] + 8
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
