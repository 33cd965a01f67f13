"""Beds, pillows and things to sit on."""

from __future__ import annotations

from data.rooms.model import Builder
from data.rooms.shapes import rounded_box, shaped
from data.rooms.textures import material
from data.types import Array

CLOTH = ("plain", "weave", "stripes", "checker")
FRAME = ("wood", "plain")


def bed(b: Builder) -> None:
    """Frame, mattress, blanket over the foot half, headboard of three styles."""
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


def pillow(b: Builder) -> None:
    """A bulging cushion, square or oblong."""
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
    """Dining chair, office chair on a foot, or shell chair."""
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
    """Base, arms, seat and back cushions for two or three."""
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
