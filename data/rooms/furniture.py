"""Build furniture that stands on the floor, and small objects that stand on furniture.

Each function adds the parts of one random piece to a ``Builder``, in the local frame of
``data.rooms.shapes``; ``data.rooms.catalog`` lists all of them.
"""

from __future__ import annotations

import numpy as np

from data.rooms.shapes import Builder, rounded_box, shaped
from data.rooms.textures import Texture, material
from data.types import Array

CLOTH = ("plain", "weave", "stripes", "checker")
FRAME = ("wood", "plain")


def bed(b: Builder) -> None:
    """Build a bed: frame, mattress, blanket over the foot end, headboard of one of three styles."""
    width, length = b.uniform(1.0, 1.8), b.uniform(1.95, 2.15)
    seat, frame, sheet, cover = (
        b.uniform(0.42, 0.55),
        b.texture(FRAME, 0.6),
        b.texture(("plain",), 0.8),
        b.texture(CLOTH, 0.15),
    )
    x, back, front = width / 2, -length / 2, length / 2
    low = 0.28 if b.chance(0.5) else 0.2
    if b.chance(0.5):
        b.legs(frame, width, length, low - 0.12, 0.08, b.chance(0.5))
        b.box(frame, (-x, back, low - 0.12), (x, front, low))
    else:
        b.box(frame, (-x, back, 0.0), (x, front, low))
    b.cushion(sheet, (-x + 0.02, back + 0.06, low), (x - 0.02, front - 0.02, seat), 0.12)
    reach = b.uniform(0.45, 0.65) * length
    b.cushion(
        cover, (-x - 0.02, front - reach, low - 0.06), (x + 0.02, front + 0.02, seat + 0.05), 0.15
    )
    head = b.uniform(0.85, 1.15)
    style = b.choice(("board", "posts", "padded"))
    if style == "board":
        b.box(frame, (-x, back, 0.0), (x, back + 0.06, head))
    elif style == "padded":
        b.cushion(cover, (-x, back, low), (x, back + 0.1, head), 0.25)
    else:
        b.box(frame, (-x, back, head - 0.14), (x, back + 0.06, head))
        for post in (-x, -0.04, x - 0.08):
            b.box(frame, (post, back, 0.0), (post + 0.08, back + 0.06, head - 0.14))
    b.top(-x + 0.05, back + 0.1, x - 0.05, back + 0.1 + 0.3 * length, seat)
    b.top(-x + 0.12, front - reach + 0.12, x - 0.12, front - 0.12, seat + 0.05)


def pillow(b: Builder) -> None:
    """Build a pillow: a bulging cushion, square or oblong."""
    width, depth = (b.uniform(0.55, 0.7), b.uniform(0.38, 0.45))
    if b.chance(0.3):
        width = depth = b.uniform(0.42, 0.48)
    height = b.uniform(0.13, 0.18)

    def bulge(points: Array) -> Array:
        out = points.copy()
        ends = (2 * points[:, 0] / width) ** 2 * (2 * points[:, 1] / depth) ** 2
        out[:, 2] = height / 2 + (points[:, 2] - height / 2) * (1 - 0.45 * ends)
        out[:, 2] -= out[:, 2].min()
        return out

    body = rounded_box(
        (-width / 2, -depth / 2, 0.0), (width / 2, depth / 2, height), 0.45, b.spacing
    )
    b.add(b.texture(CLOTH, 0.3), shaped(body, bulge))


def chair(b: Builder) -> None:
    """Build a chair: a dining chair, an office chair on a foot, or a shell chair."""
    width, depth, seat = b.uniform(0.42, 0.5), b.uniform(0.42, 0.5), b.uniform(0.43, 0.48)
    back = b.uniform(0.85, 1.0)
    main, leg = b.texture(("plain", "weave", "wood")), b.texture(FRAME, 0.8)
    x, y = width / 2, depth / 2
    style = b.choice(("dining", "office", "shell"))
    if style == "office":
        b.lathe(leg, [(0, 0.0), (0.27, 0.0), (0.27, 0.03), (0.05, 0.09), (0, 0.09)])
        b.rod(leg, 0.035, 0.08, seat - 0.05, 0.0, 0.0)
        b.cushion(main, (-x, -y, seat - 0.06), (x, y, seat + 0.02), 0.3)
        b.box(leg, (-0.04, -y - 0.03, seat - 0.05), (0.04, -y + 0.01, seat + 0.16))
        b.cushion(main, (-x + 0.02, -y - 0.03, seat + 0.12), (x - 0.02, -y + 0.06, back), 0.3)
        if b.chance(0.6):
            for side in (-x, x - 0.05):
                b.box(leg, (side, -y + 0.1, seat), (side + 0.05, -y + 0.15, seat + 0.2))
                b.box(leg, (side, -y + 0.05, seat + 0.2), (side + 0.05, y - 0.08, seat + 0.24))
        return
    b.legs(leg, width, depth, seat - 0.03, 0.045, style == "shell")
    if style == "shell":
        b.cushion(main, (-x, -y, seat - 0.04), (x, y, seat + 0.04), 0.5)
        b.cushion(main, (-x, -y, seat - 0.02), (x, -y + 0.09, back - 0.06), 0.4)
        return
    b.box(main, (-x, -y, seat - 0.03), (x, y, seat + 0.01))
    for side in (-x, x - 0.05):
        b.box(leg, (side, -y, seat + 0.01), (side + 0.05, -y + 0.05, back))
    if b.chance(0.5):
        b.box(main, (-x + 0.05, -y, seat + 0.15), (x - 0.05, -y + 0.035, back))
    else:
        for z in (seat + 0.16, back - 0.12):
            b.box(main, (-x + 0.05, -y, z), (x - 0.05, -y + 0.035, z + 0.1))


def sofa(b: Builder) -> None:
    """Build a sofa: base, arms, and seat and back cushions for two or three persons."""
    places = 2 + int(b.chance(0.55))
    width, depth = places * b.uniform(0.6, 0.7) + 0.4, b.uniform(0.82, 0.95)
    seat, back, arm = b.uniform(0.4, 0.46), b.uniform(0.75, 0.9), b.uniform(0.55, 0.64)
    cloth, foot = b.texture(CLOTH, 0.3), material(b.choice(("black", "brown", "grey")))
    x, y, thick = width / 2, depth / 2, b.uniform(0.14, 0.2)
    b.legs(foot, width - 0.1, depth - 0.1, 0.08, 0.07, b.chance(0.5))
    b.box(cloth, (-x + thick, -y, 0.08), (x - thick, y - 0.02, seat - 0.14))
    b.cushion(cloth, (-x + thick - 0.02, -y, 0.1), (x - thick + 0.02, -y + 0.24, back), 0.15)
    for side in (-x, x - thick):
        b.cushion(cloth, (side, -y, 0.06), (side + thick, y, arm), 0.2)
    inner = (width - 2 * thick) / places
    for place in range(places):
        left = -x + thick + place * inner
        b.cushion(cloth, (left, -y + 0.2, seat - 0.16), (left + inner, y, seat), 0.22)
        b.cushion(cloth, (left, -y + 0.16, seat), (left + inner, -y + 0.36, back - 0.06), 0.35)
    b.top(-x + thick + 0.03, -y + 0.36, x - thick - 0.03, y, seat)


BOARD = ("wood", "plain", "speckle")


def table(b: Builder) -> None:
    """Build a table: rectangular on four legs, or round on a foot."""
    height, top, leg = b.uniform(0.7, 0.77), b.texture(BOARD, 0.5), b.texture(BOARD, 0.6)
    if b.chance(0.4):
        radius = b.uniform(0.45, 0.6)
        b.lathe(top, [(0, height - 0.05), (radius, height - 0.05), (radius, height), (0, height)])
        b.lathe(leg, [(0, 0.0), (0.28, 0.0), (0.26, 0.04), (0.06, 0.1), (0.05, height - 0.05)])
        side = radius * 0.7
        b.top(-side, -side, side, side, height)
        return
    width, depth = b.uniform(1.0, 1.6), b.uniform(0.75, 0.95)
    x, y = width / 2, depth / 2
    b.box(top, (-x, -y, height - 0.05), (x, y, height))
    b.legs(leg, width - 0.06, depth - 0.06, height - 0.05, b.uniform(0.06, 0.09), b.chance(0.4))
    b.top(-x, -y, x, y, height)


def desk(b: Builder) -> None:
    """Build a desk: a top with a drawer block, a side panel and a back panel."""
    width, depth, height = b.uniform(1.1, 1.6), b.uniform(0.6, 0.75), b.uniform(0.71, 0.77)
    top, body = b.texture(BOARD, 0.5), b.texture(("wood", "plain"), 0.6)
    x, y, under = width / 2, depth / 2, height - 0.04
    b.box(top, (-x, -y, under), (x, y, height))
    block = b.uniform(0.36, 0.45)
    left = b.chance(0.5)
    low, high = (-x + 0.01, -x + block) if left else (x - block, x - 0.01)
    b.box(body, (low, -y + 0.01, 0.0), (high, y - 0.03, under))
    knob = material("black" if body.color != "black" else "white")
    count = 3 if b.chance(0.6) else 2
    for drawer in range(count):
        z = 0.06 + drawer * (under - 0.08) / count
        b.box(
            top,
            (low + 0.02, y - 0.03, z),
            (high - 0.02, y - 0.01, z + (under - 0.08) / count - 0.03),
        )
        middle, grip = (low + high) / 2, z + (under - 0.08) / count / 2
        b.box(knob, (middle - 0.06, y - 0.01, grip - 0.01), (middle + 0.06, y + 0.01, grip + 0.02))
    side = (x - 0.05, x - 0.01) if left else (-x + 0.01, -x + 0.05)
    b.box(body, (side[0], -y + 0.01, 0.0), (side[1], y - 0.02, under))
    gap = (high, side[0]) if left else (side[1], low)
    b.box(body, (gap[0], -y + 0.02, 0.3), (gap[1], -y + 0.05, under))
    b.top(-x + 0.02, -y + 0.02, x - 0.02, y - 0.02, height)


def bookshelf(b: Builder) -> None:
    """Build a bookshelf: open shelves with rows of books of many colours."""
    width, depth, height = b.uniform(0.7, 1.2), b.uniform(0.28, 0.36), b.uniform(1.5, 2.0)
    wood = b.texture(("wood", "plain"), 0.6)
    x, y, t = width / 2, depth / 2, 0.04
    b.box(wood, (-x, -y, 0.0), (-x + t, y, height))
    b.box(wood, (x - t, -y, 0.0), (x, y, height))
    b.box(wood, (-x + t, -y, 0.0), (x - t, -y + 0.02, height))
    shelves = int(b.rng.integers(4, 6))
    step = (height - t) / shelves
    for shelf in range(shelves + 1):
        b.box(wood, (-x + t, -y + 0.02, shelf * step), (x - t, y, shelf * step + t))
    for shelf in range(shelves):
        left, base = -x + t + 0.01, shelf * step + t
        end = x - t - (b.uniform(0.02, 0.3) if b.chance(0.7) else 0.02)
        while left < end - 0.12:
            thick, tall = b.uniform(0.1, 0.24), b.uniform(0.55, 0.85) * (step - t)
            thick = min(thick, end - left)
            book = b.texture(("plain", "stripes"), 0.3)
            b.box(
                book,
                (left, -y + 0.04, base),
                (left + thick, y - b.uniform(0.02, 0.08), base + tall),
            )
            left += thick + 0.004
        if left < x - t - 0.1:
            b.top(left, -y + 0.04, x - t - 0.01, y - 0.02, base, step - t - 0.02)


def nightstand(b: Builder) -> None:
    """Build a nightstand: a low block with two drawers, on the floor or on legs."""
    width, depth, height = b.uniform(0.4, 0.52), b.uniform(0.38, 0.45), b.uniform(0.45, 0.6)
    body, front = b.texture(("wood", "plain"), 0.5), b.texture(("wood", "plain"), 0.5)
    x, y = width / 2, depth / 2
    floor = 0.14 if b.chance(0.5) else 0.0
    if floor:
        b.legs(body, width, depth, floor, 0.05, b.chance(0.5))
    b.box(body, (-x, -y, floor), (x, y - 0.02, height))
    middle = (floor + height) / 2
    knob = material("black" if front.color != "black" else "white")
    for z0, z1 in ((floor + 0.02, middle - 0.01), (middle + 0.01, height - 0.03)):
        b.box(front, (-x + 0.02, y - 0.02, z0), (x - 0.02, y, z1))
        b.box(knob, (-0.06, y, (z0 + z1) / 2 - 0.015), (0.06, y + 0.02, (z0 + z1) / 2 + 0.015))
    b.top(-x + 0.01, -y + 0.01, x - 0.01, y - 0.03, height)


def wardrobe(b: Builder) -> None:
    """Build a wardrobe: a tall closed cupboard with two or three doors."""
    width, depth, height = b.uniform(0.9, 1.5), b.uniform(0.52, 0.6), b.uniform(1.8, 2.15)
    body, front = b.texture(("wood", "plain"), 0.5), b.texture(("wood", "plain", "stripes"), 0.4)
    x, y = width / 2, depth / 2
    b.box(body, (-x, -y, 0.0), (x, y - 0.03, height))
    doors = 3 if width > 1.25 else 2
    handle = material("black" if front.color != "black" else "white")
    step = width / doors
    for door in range(doors):
        left = -x + door * step
        b.box(front, (left + 0.01, y - 0.03, 0.09), (left + step - 0.01, y, height - 0.04))
        at = left + (step - 0.1 if door % 2 == 0 else 0.06)
        b.box(handle, (at, y, 0.9), (at + 0.04, y + 0.03, 1.15))


def trash_bin(b: Builder) -> None:
    """Build a trash bin: an open bucket, a square bin with a lid, or a pedal bin."""
    main = b.texture(("plain", "weave", "stripes"))
    style = b.choice(("bucket", "square", "pedal"))
    height = b.uniform(0.35, 0.55)
    if style == "bucket":
        r = b.uniform(0.14, 0.18)
        inner = r - 0.025
        b.lathe(
            main,
            [
                (0, 0.0),
                (0.75 * r, 0.0),
                (r, height),
                (inner, height),
                (0.7 * inner, 0.05),
                (0, 0.05),
            ],
        )
        return
    if style == "pedal":
        r, lid = b.uniform(0.14, 0.18), b.texture(("plain",), 0.7)
        b.lathe(main, [(0, 0.0), (r, 0.0), (r, height), (0, height)])
        b.lathe(
            lid, [(0, height), (r + 0.01, height), (0.8 * r, height + 0.07), (0, height + 0.08)]
        )
        b.box(lid, (-0.05, r - 0.02, 0.01), (0.05, r + 0.07, 0.04))
        return
    half, lid = b.uniform(0.13, 0.18), b.texture(("plain",), 0.7)
    b.box(main, (-half, -half, 0.0), (half, half, height))
    b.box(lid, (-half - 0.015, -half - 0.015, height), (half + 0.015, half + 0.015, height + 0.05))
    b.box(main, (-0.05, half - 0.08, height + 0.05), (0.05, half - 0.04, height + 0.08))


def _shade(b: Builder, shade: Texture, radius: float, low: float, high: float) -> None:
    narrow = radius * b.uniform(0.5, 1.0)
    b.lathe(shade, [(0, low), (radius, low), (narrow, high), (0, high)])


def lamp(b: Builder) -> None:
    """Build a table lamp: foot, stem and shade."""
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
    """Build a floor lamp: foot, tall stem and shade."""
    foot, plain = b.texture(("plain", "wood"), 0.5), b.texture(("plain", "stripes"), 0.4)
    shade = Texture(plain.kind, plain.base, plain.second, plain.scale, 2, 0.9, plain.color)
    height, r = b.uniform(1.4, 1.7), b.uniform(0.15, 0.19)
    b.lathe(
        foot,
        [(0, 0.0), (r, 0.0), (r, 0.03), (0.03, 0.07), (0.025, height - 0.25), (0, height - 0.25)],
    )
    _shade(b, shade, b.uniform(0.2, 0.27), height - 0.33, height)


def monitor(b: Builder) -> None:
    """Build a monitor: foot, neck, casing and a lit screen with a window on it."""
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
    """Build a potted plant: a pot with earth, and single leaves or a leafy ball on a stem."""
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
    """Add one leaf that rises from the pot and bends outwards; ``turn`` is a share of a circle."""
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
