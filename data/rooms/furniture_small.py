"""Small things that stand on others, and plants."""

from __future__ import annotations

import numpy as np

from data.rooms.model import Builder
from data.rooms.shapes import rounded_box, shaped
from data.rooms.textures import Texture, material
from data.types import Array


def _shade(b: Builder, shade: Texture, radius: float, low: float, high: float) -> None:
    narrow = radius * b.uniform(0.5, 1.0)
    b.lathe(shade, [(0, low), (radius, low), (narrow, high), (0, high)])


def lamp(b: Builder) -> None:
    """Table lamp: foot, stem and shade."""
    foot, plain = b.texture(("plain", "wood"), 0.5), b.texture(("plain", "stripes"), 0.4)
    shade = Texture(plain.kind, plain.base, plain.second, plain.scale, 2, 0.9, plain.color)
    height, r = b.uniform(0.42, 0.58), b.uniform(0.08, 0.11)
    if b.chance(0.5):
        b.lathe(
            foot,
            [(0, 0.0), (r, 0.0), (r, 0.03), (0.03, 0.06), (0.025, height * 0.6), (0, height * 0.6)],
        )
    else:
        body = [(0, 0.0), (0.05, 0.0), (r, 0.09), (r * 0.8, 0.17), (0.03, 0.24)]
        b.lathe(foot, [*body, (0.025, height * 0.6), (0, height * 0.6)])
    _shade(b, shade, b.uniform(0.14, 0.18), height * 0.55, height)


def floor_lamp(b: Builder) -> None:
    """Tall lamp standing on the floor."""
    foot, plain = b.texture(("plain", "wood"), 0.5), b.texture(("plain", "stripes"), 0.4)
    shade = Texture(plain.kind, plain.base, plain.second, plain.scale, 2, 0.9, plain.color)
    height, r = b.uniform(1.4, 1.7), b.uniform(0.15, 0.19)
    b.lathe(
        foot,
        [(0, 0.0), (r, 0.0), (r, 0.03), (0.03, 0.07), (0.025, height - 0.25), (0, height - 0.25)],
    )
    _shade(b, shade, b.uniform(0.2, 0.27), height - 0.33, height)


def monitor(b: Builder) -> None:
    """Foot, neck, casing and a lit screen with windows on it."""
    case = b.texture(("plain",), 0.7)
    width, height = b.uniform(0.5, 0.68), b.uniform(0.3, 0.4)
    x, z = width / 2, b.uniform(0.1, 0.14)
    foot = b.uniform(0.1, 0.14)
    b.box(case, (-foot, -0.08, 0.0), (foot, 0.1, 0.025))
    b.box(case, (-0.03, -0.05, 0.025), (0.03, -0.01, z + 0.08))
    b.box(case, (-x, -0.01, z), (x, 0.03, z + height))
    ground = b.choice(("black", "blue", "white", "green", "grey"))
    screen = material(ground, "plain", scale=0.2, glow=0.7)
    b.box(screen, (-x + 0.025, 0.03, z + 0.03), (x - 0.025, 0.034, z + height - 0.025))
    pane = material(b.choice(("white", "grey", "orange")), "stripes", scale=0.03, axis=2, glow=0.8)
    left = b.uniform(-x + 0.05, -0.02)
    b.box(pane, (left, 0.034, z + 0.08), (left + 0.2, 0.037, z + height - 0.06))


def potted_plant(b: Builder) -> None:
    """A pot with earth and a crown of leaves or a leafy ball on a stem."""
    pot = b.texture(("plain", "stripes", "speckle", "weave"), 0.4)
    r, h = b.uniform(0.14, 0.2), b.uniform(0.22, 0.36)
    b.lathe(pot, [(0, 0.0), (0.7 * r, 0.0), (r, h), (0.86 * r, h), (0.84 * r, h - 0.04)])
    b.lathe(material("brown", "speckle", scale=0.05), [(0.84 * r, h - 0.04), (0, h - 0.04)])
    leaf = material("green", "speckle", scale=b.uniform(0.06, 0.12))
    total = b.uniform(0.8, 1.35)
    if b.chance(0.4):
        stem = total - 0.25
        b.rod(material("brown", "wood", scale=0.05), 0.03, h - 0.05, stem, 0.0, 0.0)
        size = b.uniform(0.2, 0.28)
        for x, y, z in ((0, 0, 0.0), (0.12, 0.08, -0.14), (-0.13, 0.02, -0.1), (0.02, -0.12, 0.1)):
            low = (x - size, y - size, stem + z - 0.8 * size)
            high = (x + size, y + size, stem + z + 0.8 * size)
            b.add(leaf, rounded_box(low, high, 0.9, b.spacing))
        return
    count = int(b.rng.integers(7, 11))
    for index in range(count):
        _leaf(b, leaf, index / count, h, total)


def _leaf(b: Builder, texture: Texture, turn: float, base: float, total: float) -> None:
    """One blade that rises from the pot and bends outwards."""
    length, width = (total - base) * b.uniform(0.75, 1.0), b.uniform(0.05, 0.08)
    lean, droop = b.uniform(0.15, 0.4), b.uniform(0.05, 0.25)
    blade = rounded_box((-width, -0.012, 0.0), (width, 0.012, length), 0.7, b.spacing)

    def bend(points: Array) -> Array:
        t = points[:, 2] / length
        out = points.copy()
        out[:, 0] *= 0.35 + 1.3 * t * (1.5 - t)
        out[:, 1] += 0.03 + lean * t + droop * t * t
        out[:, 2] = base - 0.05 + points[:, 2] * (1 - 0.35 * droop * t)
        return out

    angle = 2 * np.pi * turn
    cosine, sine = round(float(np.cos(angle)), 9), round(float(np.sin(angle)), 9)
    b.add(texture, shaped(blade, bend).turned(2, cosine, sine))
