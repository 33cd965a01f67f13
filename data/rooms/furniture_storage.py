"""Tables and things that hold other things."""

from __future__ import annotations

from data.rooms.model import Builder
from data.rooms.textures import material

BOARD = ("wood", "plain", "speckle")


def table(b: Builder) -> None:
    """Rectangular on four legs, or round on a foot."""
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
    """Top with side panels, a drawer block or legs, and a modesty panel at the back."""
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
    """Open shelves with rows of books of many colours."""
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


def nightstand(b: Builder) -> None:
    """A low block with drawers, or an open one on legs."""
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
    """A tall closed cupboard with two or three doors."""
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
    """Open bucket, square bin with a lid, or pedal bin."""
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
