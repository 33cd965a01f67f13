"""List all categories of furniture with their shape and placement; build fixtures and wall pieces.

A builder function takes a ``Builder`` and adds the parts of one random piece, in the local frame
of ``data.rooms.shapes``. ``data.rooms.furniture`` has the other builder functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from data.rooms import furniture
from data.rooms.shapes import Builder, Model, lathe, rounded_box
from data.rooms.textures import Texture, material


def toilet(b: Builder) -> None:
    """Build a toilet: foot, bowl with an opening, seat ring, lid leaning on a tank."""
    china = b.texture(("plain",), 0.75)
    seat = b.texture(("plain", "wood"), 0.6) if b.chance(0.5) else china
    width, depth = b.uniform(0.36, 0.42), b.uniform(0.64, 0.72)
    y, rim = depth / 2, b.uniform(0.38, 0.43)
    cy, r = y - width * 0.62, width / 2
    foot = [(0, 0.0), (0.6 * r, 0.0), (0.55 * r, 0.15), (r, rim - 0.04), (r, rim)]
    bowl = [(0.72 * r, rim), (0.5 * r, rim - 0.14), (0, rim - 0.18)]
    stretch = 1.24
    for texture, profile in ((china, foot + bowl), (seat, _ring(r, rim))):
        body = lathe(profile, b.spacing)
        body.vertices[:, 1] *= stretch
        b.add(texture, body.moved(0.0, cy, 0.0))
    tank = b.uniform(0.72, 0.82)
    b.cushion(china, (-width / 2, -y, rim - 0.08), (width / 2, -y + 0.19, tank), 0.12)
    b.box(seat, (-r + 0.02, -y + 0.19, rim + 0.03), (r - 0.02, -y + 0.23, rim + 0.36))
    b.box(china, (-0.1, -y, 0.0), (0.1, cy, rim - 0.08))
    b.rod(material("grey"), 0.03, tank - 0.01, tank + 0.02, 0.0, -y + 0.09)


def _ring(r: float, z: float) -> list[tuple[float, float]]:
    return [(0.7 * r, z), (1.04 * r, z), (1.04 * r, z + 0.03), (0.7 * r, z + 0.03), (0.7 * r, z)]


def sink(b: Builder) -> None:
    """Build a sink: a basin on a column or on a cupboard, with a tap."""
    china, metal = b.texture(("plain", "speckle"), 0.7), material("grey", "plain", scale=0.02)
    width, depth, height = b.uniform(0.52, 0.7), b.uniform(0.44, 0.52), b.uniform(0.8, 0.9)
    x, y = width / 2, depth / 2
    wall = 0.05
    b.box(china, (-x, -y, height - 0.17), (x, y, height - 0.12))
    b.box(china, (-x, -y, height - 0.12), (x, -y + 0.12, height))
    b.box(china, (-x, y - wall, height - 0.12), (x, y, height))
    b.box(china, (-x, -y + 0.12, height - 0.12), (-x + wall, y - wall, height))
    b.box(china, (x - wall, -y + 0.12, height - 0.12), (x, y - wall, height))
    b.box(metal, (-0.025, -y + 0.03, height), (0.025, -y + 0.08, height + 0.2))
    b.box(metal, (-0.025, -y + 0.08, height + 0.15), (0.025, -y + 0.24, height + 0.2))
    if b.chance(0.5):
        b.lathe(
            china,
            [(0, 0.0), (0.14, 0.0), (0.09, 0.1), (0.1, height - 0.3), (0.2, height - 0.17)],
            (0.0, -0.02),
        )
        return
    wood = b.texture(("wood", "plain"), 0.5)
    b.box(wood, (-x + 0.02, -y, 0.0), (x - 0.02, y - 0.04, height - 0.17))
    for left, right in ((-x + 0.04, -0.01), (0.01, x - 0.04)):
        b.box(china, (left, y - 0.04, 0.05), (right, y - 0.02, height - 0.21))


def bathtub(b: Builder) -> None:
    """Build a bathtub: a rim around a hollow, in a panelled shell."""
    china, panel = b.texture(("plain",), 0.75), b.texture(("plain", "checker", "wood"), 0.5)
    width, depth, height = b.uniform(1.5, 1.75), b.uniform(0.7, 0.8), b.uniform(0.5, 0.58)
    x, y, rim = width / 2, depth / 2, 0.08
    b.box(panel, (-x, y - rim, 0.0), (x, y, height - 0.04))
    b.box(panel, (-x, -y, 0.0), (x, -y + rim, height - 0.04))
    b.box(panel, (-x, -y + rim, 0.0), (-x + rim, y - rim, height - 0.04))
    b.box(panel, (x - rim, -y + rim, 0.0), (x, y - rim, height - 0.04))
    b.box(china, (-x + rim, -y + rim, 0.08), (x - rim, y - rim, 0.14))
    for low, high in (
        ((-x, y - rim - 0.02), (x, y)),
        ((-x, -y), (x, -y + rim + 0.02)),
        ((-x, -y + rim + 0.02), (-x + rim + 0.02, y - rim - 0.02)),
        ((x - rim - 0.02, -y + rim + 0.02), (x, y - rim - 0.02)),
    ):
        b.box(china, (*low, height - 0.04), (*high, height))
    metal = material("grey", "plain", scale=0.02)
    b.box(metal, (-x + 0.02, -0.03, height), (-x + 0.08, 0.03, height + 0.2))
    b.box(metal, (-x + 0.08, -0.03, height + 0.14), (-x + 0.24, 0.03, height + 0.2))


def refrigerator(b: Builder) -> None:
    """Build a refrigerator: a tall box with two doors, one above the other, and long handles."""
    main = b.texture(("plain",), 0.6)
    width, depth, height = b.uniform(0.58, 0.75), b.uniform(0.6, 0.68), b.uniform(1.5, 1.9)
    x, y, split = width / 2, depth / 2, b.uniform(0.5, 0.68)
    b.box(main, (-x, -y, 0.05), (x, y - 0.05, height))
    dark = material("black")
    b.box(dark, (-x + 0.02, -y + 0.02, 0.0), (x - 0.02, y - 0.08, 0.05))
    cut = split * height if b.chance(0.5) else (1 - split) * height + 0.1
    metal = material("grey" if main.color != "grey" else "black")
    side = -x + 0.05 if b.chance(0.5) else x - 0.1
    for z0, z1 in ((0.06, cut - 0.01), (cut + 0.01, height)):
        b.cushion(main, (-x, y - 0.05, z0), (x, y, z1), 0.04)
        middle = z1 - 0.22 if z0 < 0.1 else z0 + 0.22
        b.box(metal, (side, y, middle - 0.16), (side + 0.05, y + 0.04, middle + 0.16))


def door(b: Builder) -> None:
    """Build a door: frame, leaf with panels, and handle; it begins at floor height."""
    frame, leaf = b.texture(("wood", "plain"), 0.7), b.texture(("wood", "plain"), 0.45)
    width, height = b.uniform(0.82, 0.98), b.uniform(1.98, 2.1)
    x, t = width / 2, 0.08
    b.box(frame, (-x - t, 0.0, 0.0), (-x, 0.06, height + t))
    b.box(frame, (x, 0.0, 0.0), (x + t, 0.06, height + t))
    b.box(frame, (-x, 0.0, height), (x, 0.06, height + t))
    b.box(leaf, (-x, 0.0, 0.0), (x, 0.035, height))
    rows = int(b.rng.integers(1, 4))
    columns = int(b.rng.integers(1, 3))
    for row in range(rows):
        for column in range(columns):
            w, h = (width - 0.16) / columns, (height - 0.2) / rows
            left, low = -x + 0.08 + column * w, 0.1 + row * h
            b.box(leaf, (left + 0.03, 0.035, low + 0.03), (left + w - 0.03, 0.05, low + h - 0.03))
    at = x - 0.16 if b.chance(0.5) else -x + 0.04
    b.box(material("grey"), (at, 0.035, 1.0), (at + 0.12, 0.09, 1.05))


def window(b: Builder) -> None:
    """Build a window: frame, cross bars, sill and bright panes."""
    frame = b.texture(("plain", "wood"), 0.8)
    width, height = b.uniform(0.9, 1.6), b.uniform(0.9, 1.3)
    x, t = width / 2, 0.07
    sky = Texture("plain", (0.78, 0.88, 0.98), (0.95, 0.97, 1.0), 0.5, 0, 1.15, "")
    b.box(sky, (-x + 0.03, 0.005, 0.03), (x - 0.03, 0.02, height - 0.03))
    for z in (0.0, height - t):
        b.box(frame, (-x, 0.0, z), (x, 0.06, z + t))
    for left in (-x, x - t):
        b.box(frame, (left, 0.0, t), (left + t, 0.06, height - t))
    bars = 1 if width < 1.3 else 2
    for bar in range(bars):
        middle = -x + (bar + 1) * width / (bars + 1)
        b.box(frame, (middle - 0.03, 0.0, t), (middle + 0.03, 0.05, height - t))
    if b.chance(0.5):
        z = height * b.uniform(0.45, 0.65)
        b.box(frame, (-x + t, 0.0, z - 0.03), (x - t, 0.045, z + 0.03))
    b.box(frame, (-x - 0.05, 0.06, 0.0), (x + 0.05, 0.14, 0.04))


def whiteboard(b: Builder) -> None:
    """Build a whiteboard: a bright board in a frame, with a tray and coloured notes."""
    board, frame = material("white", "plain", scale=0.6), b.texture(("plain", "wood"), 0.5)
    width, height = b.uniform(1.2, 1.9), b.uniform(0.85, 1.1)
    x, t = width / 2, 0.05
    b.box(board, (-x, 0.0, 0.0), (x, 0.025, height))
    for z in (0.0, height - t):
        b.box(frame, (-x, 0.025, z), (x, 0.045, z + t))
    for left in (-x, x - t):
        b.box(frame, (left, 0.025, t), (left + t, 0.045, height - t))
    b.box(frame, (-x * 0.6, 0.045, 0.0), (x * 0.6, 0.11, 0.03))
    for _ in range(int(b.rng.integers(2, 5))):
        left, low = b.uniform(-x + 0.1, x - 0.35), b.uniform(0.12, height - 0.3)
        wide = b.uniform(0.1, 0.25)
        b.box(b.texture(("plain",), 0.2), (left, 0.025, low), (left + wide, 0.03, low + 0.12))


def wall_clock(b: Builder) -> None:
    """Build a wall clock: a round or square dial with two hands and a rim."""
    rim, dial = b.texture(("plain", "wood"), 0.3), b.texture(("plain",), 0.7)
    hand = material("black" if dial.color not in ("black", "blue", "brown") else "white")
    r = b.uniform(0.16, 0.21)
    if b.chance(0.7):
        shell = [(0, 0.0), (r, 0.0), (r, 0.05), (0.84 * r, 0.05), (0.84 * r, 0.03), (0, 0.03)]
        face = [(0, 0.03), (0.84 * r, 0.03), (0.84 * r, 0.034), (0, 0.034)]
        for texture, profile in ((rim, shell), (dial, face)):
            b.add(texture, lathe(profile, b.spacing).turned(0, 0.0, -1.0).moved(0, 0, r))
    else:
        b.box(rim, (-r, 0.0, 0.0), (r, 0.05, 2 * r))
        b.box(dial, (-0.84 * r, 0.05, 0.16 * r), (0.84 * r, 0.054, 1.84 * r))
    face_y = 0.034 if len(b.surfaces) == 2 and b.surfaces[1].vertices[:, 1].max() < 0.04 else 0.054
    b.box(hand, (-0.012, face_y, r - 0.02), (0.012, face_y + 0.01, 1.7 * r))
    left = b.chance(0.5)
    b.box(
        hand,
        (-0.5 * r if left else 0, face_y, r - 0.012),
        (0 if left else 0.5 * r, face_y + 0.01, r + 0.012),
    )


def picture(b: Builder) -> None:
    """Build a picture: a framed ground colour with two shapes on it."""
    frame, ground = b.texture(("wood", "plain"), 0.5), b.texture(("plain", "stripes", "speckle"))
    width, height = b.uniform(0.45, 0.9), b.uniform(0.4, 0.7)
    x, t = width / 2, 0.05
    b.box(ground, (-x, 0.0, 0.0), (x, 0.02, height))
    for z in (0.0, height - t):
        b.box(frame, (-x, 0.02, z), (x, 0.045, z + t))
    for left in (-x, x - t):
        b.box(frame, (left, 0.02, t), (left + t, 0.045, height - t))
    for _ in range(2):
        size = b.uniform(0.1, 0.2)
        left, low = b.uniform(-x + 0.07, x - 0.07 - size), b.uniform(0.07, height - 0.07 - size)
        ball = rounded_box(
            (left, 0.01, low), (left + size, 0.028, low + size), b.uniform(0, 1), b.spacing
        )
        b.add(b.texture(("plain",)), ball)


Placement = Literal["wall_floor", "floor", "hung", "on", "beside"]
STRUCTURE = ("floor", "ceiling", "wall")


@dataclass(frozen=True)
class Category:
    """A category of furniture.

    ``label`` is the annotated class, ``shape`` builds a piece, and ``placement`` is the rule by
    which the layout places it. ``front`` is the depth in metres that stays free in front of it;
    ``height`` is the range of the lower edge (metres above the floor) of pieces on a wall.
    """

    label: str
    shape: Callable[[Builder], None]
    placement: Placement
    front: float = 0.0
    height: tuple[float, float] = (0.0, 0.0)


CATEGORIES: dict[str, Category] = {
    "bed": Category("bed", furniture.bed, "wall_floor", 0.3),
    "pillow": Category("pillow", furniture.pillow, "on"),
    "chair": Category("chair", furniture.chair, "beside"),
    "sofa": Category("sofa", furniture.sofa, "wall_floor", 0.4),
    "table": Category("table", furniture.table, "floor"),
    "desk": Category("desk", furniture.desk, "wall_floor", 0.75),
    "lamp": Category("lamp", furniture.lamp, "on"),
    "floor lamp": Category("lamp", furniture.floor_lamp, "wall_floor"),
    "monitor": Category("monitor", furniture.monitor, "on"),
    "bookshelf": Category("bookshelf", furniture.bookshelf, "wall_floor", 0.4),
    "nightstand": Category("nightstand", furniture.nightstand, "beside"),
    "wardrobe": Category("wardrobe", furniture.wardrobe, "wall_floor", 0.5),
    "trash bin": Category("trash bin", furniture.trash_bin, "wall_floor"),
    "potted plant": Category("potted plant", furniture.potted_plant, "wall_floor"),
    "toilet": Category("toilet", toilet, "wall_floor", 0.4),
    "sink": Category("sink", sink, "wall_floor", 0.5),
    "bathtub": Category("bathtub", bathtub, "wall_floor", 0.3),
    "refrigerator": Category("refrigerator", refrigerator, "wall_floor", 0.5),
    "door": Category("door", door, "hung", 0.9),
    "window": Category("window", window, "hung", 0.0, (0.85, 1.05)),
    "whiteboard": Category("whiteboard", whiteboard, "hung", 0.0, (0.9, 1.05)),
    "wall clock": Category("wall clock", wall_clock, "hung", 0.0, (1.55, 1.9)),
    "picture": Category("picture", picture, "hung", 0.0, (1.3, 1.6)),
}
LABELS = tuple(sorted({category.label for category in CATEGORIES.values()}))


def build(name: str, rng: np.random.Generator, spacing: float) -> Model:
    """Build a random piece of a category; ``name`` is a key of ``CATEGORIES``."""
    category = CATEGORIES[name]
    builder = Builder(spacing, rng)
    category.shape(builder)
    return builder.model(category.label)
