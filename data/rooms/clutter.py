"""Build the small things that people leave about, and scatter them over furniture and floor.

None of them is of a kind that queries ask for. They are annotated as objects of their own, so that
they belong neither to the table under them nor to anything else that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data.rooms.layout import Placed
from data.rooms.shapes import Builder, Top, Zone, overlap
from data.rooms.textures import material

_TRIES = 12
_FLOOR_SHARE = 0.3
_GAP = 0.01
_FROM_WALL = 0.08
_MOST_SPACING = 0.04
_FLAT_TOPPED = ("bookshelf", "wardrobe", "refrigerator")


def book(b: Builder) -> None:
    """Build one to four books in a pile."""
    z = 0.0
    for _ in range(int(b.rng.integers(1, 5))):
        x, y, thick = b.uniform(0.07, 0.1), b.uniform(0.1, 0.14), b.uniform(0.015, 0.04)
        dx, dy = b.uniform(-0.015, 0.015), b.uniform(-0.015, 0.015)
        cover = b.texture(("plain", "stripes"), 0.25)
        b.box(cover, (dx - x, dy - y, z), (dx + x, dy + y, z + thick))
        z += thick


def cup(b: Builder) -> None:
    """Build a cup with a handle."""
    china, r, h = (
        b.texture(("plain", "stripes"), 0.4),
        b.uniform(0.035, 0.048),
        b.uniform(0.08, 0.12),
    )
    inner = r - 0.006
    b.lathe(china, [(0, 0.0), (0.8 * r, 0.0), (r, h), (inner, h), (0.7 * inner, 0.01), (0, 0.01)])
    b.box(china, (r - 0.006, -0.006, 0.3 * h), (r + 0.028, 0.006, 0.75 * h))


def bottle(b: Builder) -> None:
    """Build a bottle with a neck and a cap."""
    glass, cap = b.texture(("plain",), 0.3), b.texture(("plain",), 0.5)
    r, h = b.uniform(0.032, 0.045), b.uniform(0.22, 0.32)
    b.lathe(glass, [(0, 0.0), (r, 0.0), (r, 0.62 * h), (0.4 * r, 0.8 * h), (0.4 * r, 0.94 * h)])
    b.lathe(cap, [(0.45 * r, 0.94 * h), (0.45 * r, h), (0, h)])


def carton(b: Builder) -> None:
    """Build a cardboard box with a strip of tape."""
    x, y, h = b.uniform(0.06, 0.18), b.uniform(0.05, 0.14), b.uniform(0.06, 0.26)
    board = (
        material("brown", "speckle", scale=0.05) if b.chance(0.6) else b.texture(("plain",), 0.3)
    )
    b.box(board, (-x, -y, 0.0), (x, y, h))
    b.box(material("beige"), (-x, -0.025, h), (x, 0.025, h + 0.002))


def shoe(b: Builder) -> None:
    """Build a pair of shoes side by side."""
    upper, sole = b.texture(("plain", "weave"), 0.5), b.texture(("plain",), 0.8)
    length, width = b.uniform(0.25, 0.3), b.uniform(0.085, 0.1)
    half = length / 2
    for x in (-width / 2 - 0.015, width / 2 + 0.015):
        low, high = x - width / 2, x + width / 2
        b.box(sole, (low, -half, 0.0), (high, half, 0.025))
        b.cushion(
            upper, (low + 0.004, -half + 0.005, 0.02), (high - 0.004, half - 0.01, 0.075), 0.5
        )
        b.cushion(upper, (low + 0.008, -half + 0.005, 0.03), (high - 0.008, -0.02, 0.12), 0.4)


def bowl(b: Builder) -> None:
    """Build an open bowl."""
    china, r, h = b.texture(("plain", "stripes"), 0.4), b.uniform(0.08, 0.13), b.uniform(0.05, 0.09)
    inner = r - 0.01
    b.lathe(
        china, [(0, 0.0), (0.5 * r, 0.0), (r, h), (inner, h), (0.45 * inner, 0.012), (0, 0.012)]
    )


def plate(b: Builder) -> None:
    """Build a flat plate with a raised rim."""
    china, r = b.texture(("plain",), 0.5), b.uniform(0.1, 0.14)
    b.lathe(
        china, [(0, 0.0), (0.6 * r, 0.0), (r, 0.022), (0.97 * r, 0.024), (0.6 * r, 0.01), (0, 0.01)]
    )


def ball(b: Builder) -> None:
    """Build a ball."""
    r = b.uniform(0.05, 0.12)
    b.cushion(b.texture(("plain", "checker", "stripes"), 0.1), (-r, -r, 0.0), (r, r, 2 * r), 1.0)


def bag(b: Builder) -> None:
    """Build a soft bag with a handle."""
    cloth, strap = b.texture(("plain", "weave"), 0.4), b.texture(("plain",), 0.7)
    x, y, h = b.uniform(0.14, 0.2), b.uniform(0.07, 0.11), b.uniform(0.24, 0.36)
    b.cushion(cloth, (-x, -y, 0.0), (x, y, h), 0.3)
    b.box(strap, (-0.06, -0.012, h + 0.03), (0.06, 0.012, h + 0.045))
    for left in (-0.06, 0.045):
        b.box(strap, (left, -0.012, h - 0.02), (left + 0.015, 0.012, h + 0.03))


def tin(b: Builder) -> None:
    """Build a tin."""
    b.rod(
        b.texture(("plain", "stripes"), 0.3),
        b.uniform(0.035, 0.05),
        0.0,
        b.uniform(0.07, 0.13),
        0,
        0,
    )


def kettle(b: Builder) -> None:
    """Build a kettle: body, lid, handle and spout."""
    metal, grip = b.texture(("plain",), 0.7), material("black")
    r, h = b.uniform(0.075, 0.09), b.uniform(0.18, 0.22)
    b.lathe(metal, [(0, 0.0), (r, 0.0), (0.7 * r, h), (0, h + 0.01)])
    b.box(grip, (-0.012, -r - 0.05, 0.3 * h), (0.012, -r - 0.03, h))
    b.box(grip, (-0.012, -r - 0.03, h - 0.02), (0.012, -0.4 * r, h))
    b.box(metal, (-0.015, 0.6 * r, 0.6 * h), (0.015, r + 0.04, 0.8 * h))


def remote_control(b: Builder) -> None:
    """Build a remote control with a field of buttons."""
    case = b.texture(("plain",), 0.9)
    b.box(case, (-0.025, -0.085, 0.0), (0.025, 0.085, 0.02))
    keys = material("white" if case.color in ("black", "grey", "brown") else "black")
    b.box(keys, (-0.017, -0.06, 0.02), (0.017, 0.05, 0.023))


@dataclass(frozen=True)
class SmallThing:
    """A kind of small thing.

    ``places`` are the kinds of place it may lie at: on furniture, on a bed or a sofa, or on the
    floor. ``weight`` is its relative frequency.
    """

    shape: Callable[[Builder], None]
    places: tuple[str, ...]
    weight: float = 1.0


_ON, _SOFT, _FLOOR = "furniture", "soft", "floor"
SMALL_THINGS: dict[str, SmallThing] = {
    "book": SmallThing(book, (_ON, _SOFT, _FLOOR), 3.0),
    "cup": SmallThing(cup, (_ON,), 2.0),
    "bottle": SmallThing(bottle, (_ON, _FLOOR), 2.0),
    "box": SmallThing(carton, (_ON, _SOFT, _FLOOR), 2.0),
    "shoe": SmallThing(shoe, (_FLOOR,), 2.0),
    "bowl": SmallThing(bowl, (_ON,)),
    "plate": SmallThing(plate, (_ON,)),
    "ball": SmallThing(ball, (_FLOOR, _SOFT)),
    "bag": SmallThing(bag, (_FLOOR, _SOFT), 1.5),
    "tin": SmallThing(tin, (_ON,)),
    "kettle": SmallThing(kettle, (_ON,), 0.5),
    "remote control": SmallThing(remote_control, (_ON, _SOFT)),
}
"""All kinds by label; no label is one of the catalog's or another name of one."""
CLUTTER_LABELS = tuple(SMALL_THINGS)
ALSO_MEETS = {"book": ("bookshelf",)}
"""Kinds of furniture whose need (``data.rooms.wordings.NEEDS``) a small thing might meet, too."""


class _Place(NamedTuple):
    """A rectangle where small things may lie, in the frame of a piece of furniture or the room."""

    kind: str
    top: Top
    host: int


def scatter(
    size: tuple[float, float, float],
    furniture: Sequence[Placed],
    rng: np.random.Generator,
    count: int,
    spacing: float,
) -> list[Placed]:
    """Scatter small things over a furnished room; ``support`` is an index of ``furniture``.

    Between half and one and a half times ``count`` are drawn, and those that find no place in a
    few tries are left out. Things on the floor keep clear of furniture, others of what already
    stands on the same piece.
    """
    if count == 0:
        return []
    places = _places(size, furniture)
    taken = [(piece.support, piece.body) for piece in furniture]
    labels = list(SMALL_THINGS)
    weights = np.array([SMALL_THINGS[label].weight for label in labels])
    wanted = int(rng.integers((count + 1) // 2, count + count // 2 + 1))
    things: list[Placed] = []
    for _ in range(wanted):
        label = labels[int(rng.choice(len(labels), p=weights / weights.sum()))]
        builder = Builder(min(spacing, _MOST_SPACING), rng)
        SMALL_THINGS[label].shape(builder)
        model = builder.model(label)
        fitting = [place for place in places if place.kind in SMALL_THINGS[label].places]
        for _ in range(_TRIES if fitting else 0):
            place = _drawn(fitting, rng)
            thing = _at_random(Placed(label, model, 0.0, 0.0, 0.0, 1.0, 0.0), place, furniture, rng)
            if thing is not None and _is_clear(thing.body, place, size, taken):
                things.append(thing)
                taken.append((thing.support, thing.body))
                break
    return things


def _places(size: tuple[float, float, float], furniture: Sequence[Placed]) -> list[_Place]:
    floor = Top((_FROM_WALL, _FROM_WALL), (size[0] - _FROM_WALL, size[1] - _FROM_WALL), 0.0)
    places = [_Place(_FLOOR, floor, -1)]
    for index, piece in enumerate(furniture):
        kind = _SOFT if piece.name in ("bed", "sofa") else _ON
        places += [_Place(kind, top, index) for top in piece.model.tops]
        if piece.name in _FLAT_TOPPED:
            low, high = piece.model.low, piece.model.high
            flat = Top((low[0] + 0.02, low[1] + 0.02), (high[0] - 0.02, high[1] - 0.06), high[2])
            places.append(_Place(kind, flat, index))
    return places


def _drawn(places: Sequence[_Place], rng: np.random.Generator) -> _Place:
    """Draw a place: the floor with a fixed probability, furniture by the area of its top."""
    areas = np.array(
        [
            0.0 if p.host < 0 else (p.top.high[0] - p.top.low[0]) * (p.top.high[1] - p.top.low[1])
            for p in places
        ]
    )
    share = areas / areas.sum() if areas.sum() > 0 else areas
    on_floor = np.array([p.host < 0 for p in places])
    if on_floor.any():
        share = np.where(on_floor, _FLOOR_SHARE, (1 - _FLOOR_SHARE) * share)
    return places[int(rng.choice(len(places), p=share / share.sum()))]


def _at_random(
    thing: Placed, place: _Place, furniture: Sequence[Placed], rng: np.random.Generator
) -> Placed | None:
    """Put a thing at a random position of a place, turned at random; None if it is too large."""
    angle = float(rng.uniform(0, 2 * np.pi))
    cosine, sine = round(float(np.cos(angle)), 9), round(float(np.sin(angle)), 9)
    corners = Placed(thing.name, thing.model, 0.0, 0.0, 0.0, cosine, sine).body.corners()
    low = np.array(place.top.low) - corners.min(axis=0)
    high = np.array(place.top.high) - corners.max(axis=0)
    if (low > high).any() or thing.model.high[2] > place.top.clear:
        return None
    x, y = (round(float(value), 3) for value in rng.uniform(low, high))
    if place.host < 0:
        return Placed(thing.name, thing.model, x, y, 0.0, cosine, sine)
    host = furniture[place.host]
    position = host.to_room(np.array([[x, y, place.top.z]]))[0]
    turned = host.cosine * cosine - host.sine * sine, host.sine * cosine + host.cosine * sine
    at = (float(position[0]), float(position[1]), float(position[2]))
    return Placed(thing.name, thing.model, *at, *turned, place.host)


def _is_clear(
    body: Zone,
    place: _Place,
    size: tuple[float, float, float],
    taken: Sequence[tuple[int, Zone]],
) -> bool:
    """Whether a thing keeps clear of the walls and of what stands or lies at the same place.

    ``taken`` are the supports and bodies of furniture and things so far.
    """
    corners = body.grown(_GAP).corners()
    if (corners < 0).any() or (corners > np.array(size[:2])).any() or body.z1 > size[2] - 0.05:
        return False
    grown = body.grown(_GAP)
    return not any(overlap(grown, other) for support, other in taken if support == place.host)
