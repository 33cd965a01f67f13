"""Placement furniture in a room by its recipe, without collisions, and find the room's free space.

Room frame: metres, a corner of the floor at the origin, walls along x and y. Walls are
numbered 0 (y = 0), 1 (x = width), 2 (y = depth), 3 (x = 0); furniture faces away from its wall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from data.rooms.catalog import CATEGORIES, build
from data.rooms.shapes import Model, Zone, overlap
from data.types import Array

_TRIES = 60
_QUARTERS = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))
_GAPS = {"trash bin": 0.06, "potted plant": 0.04, "floor lamp": 0.05}
_VIEW_DEPTH = 0.35
HOSTS: dict[str, tuple[str, ...]] = {
    "pillow": ("bed", "sofa"),
    "lamp": ("nightstand", "desk"),
    "monitor": ("desk",),
}


class LayoutError(Exception):
    """A required piece of furniture fits nowhere; another random arrangement may succeed."""


@dataclass(frozen=True, eq=False)
class Placed:
    """A placed model: rotated by (cosine, sine) about z, then moved to (x, y, z) metres.

    ``support`` is the list index of the piece it stands on (-1: floor or wall), ``wall`` the
    number of the wall it stands or hangs at (-1: none).
    """

    name: str
    model: Model
    x: float
    y: float
    z: float
    cosine: float
    sine: float
    support: int = -1
    wall: int = -1

    def to_room(self, points: Array) -> Array:
        """Transform points (n, 3) from the model's frame to the room frame."""
        x, y, z = points[:, 0], points[:, 1], points[:, 2]
        return np.stack(
            [
                self.x + (self.cosine * x - self.sine * y),
                self.y + (self.sine * x + self.cosine * y),
                self.z + z,
            ],
            axis=1,
        )

    def zone(self, low: Array, high: Array) -> Zone:
        """Return the zone of a box in the model's frame, given by two corners (3,)."""
        x, y, _ = ((low + high) / 2).tolist()
        half_x, half_y, _ = ((high - low) / 2).tolist()
        return Zone(
            self.x + (self.cosine * x - self.sine * y),
            self.y + (self.sine * x + self.cosine * y),
            half_x,
            half_y,
            self.cosine,
            self.sine,
            float(self.z + low[2]),
            float(self.z + high[2]),
        )

    @cached_property
    def body(self) -> Zone:
        """The bounding box of the model, as a zone."""
        return self.zone(self.model.low, self.model.high)


class Furnisher:
    """Places pieces of furniture one after another; ``placed`` holds those placed so far."""

    def __init__(
        self, size: tuple[float, float, float], rng: np.random.Generator, spacing: float
    ) -> None:
        self.size = size
        self.rng = rng
        self.spacing = spacing
        self.placed: list[Placed] = []
        self._kept_free: list[tuple[int, Zone]] = []

    def add(self, name: str) -> None:
        """Placement one random piece of a category; LayoutError when it fits nowhere."""
        model = build(name, self.rng, self.spacing)
        category = CATEGORIES[name]
        propose = {
            "wall_floor": self._at_wall,
            "hung": self._at_wall,
            "floor": self._in_the_middle,
            "on": self._on_top,
            "beside": self._beside,
        }[category.placement]
        for _ in range(_TRIES):
            candidate = propose(name, model)
            if candidate is not None and self._fits(candidate):
                self._keep(candidate, category.front)
                return
        raise LayoutError(f"no place for {name}")

    def _keep(self, item: Placed, front: float) -> None:
        index = len(self.placed)
        self.placed.append(item)
        low, high = item.model.low, item.model.high
        if item.wall >= 0 and CATEGORIES[item.name].placement == "hung" and front == 0.0:
            front = _VIEW_DEPTH
        if front > 0.0:
            ahead_low = np.array([low[0], high[1], low[2]])
            ahead_high = np.array([high[0], high[1] + front, high[2]])
            self._kept_free.append((index, item.zone(ahead_low, ahead_high)))

    def _fits(self, item: Placed) -> bool:
        body = item.body
        width, depth = self.size[0] + 1e-6, self.size[1] + 1e-6
        inside = all(-1e-6 <= x <= width and -1e-6 <= y <= depth for x, y in body.outline)
        if not inside or body.z1 > self.size[2] - 0.05:
            return False
        if item.support >= 0:
            mates = [p for p in self.placed if p.support == item.support]
            return not any(overlap(body.grown(0.015), mate.body) for mate in mates)
        margin = 0.0 if item.wall >= 0 else 0.02
        if any(overlap(body.grown(margin), p.body) for p in self.placed if p.support < 0):
            return False
        friends = ("chair", "nightstand")
        return not any(
            overlap(body, zone)
            for owner, zone in self._kept_free
            if not (item.name in friends and self.placed[owner].name in ("desk", "bed"))
        )

    def _between(self, low: float, high: float) -> float:
        return round(float(self.rng.uniform(low, max(low, high))), 3)

    def _at_wall(self, name: str, model: Model) -> Placed | None:
        wall = int(self.rng.integers(4))
        low, high = model.low, model.high
        length = self.size[wall % 2]
        if high[0] - low[0] > length - 0.1:
            return None
        along = self._between(0.05 - low[0], length - 0.05 - high[0])
        gap = _GAPS.get(name, 0.0)
        z = 0.0
        if CATEGORIES[name].placement == "hung":
            z = self._between(*CATEGORIES[name].height)
        return self._stand(name, model, wall, along, gap - float(low[1]), z)

    def _stand(
        self, name: str, model: Model, wall: int, along: float, off: float, z: float
    ) -> Placed:
        """Placement a model ``along`` metres along a wall and ``off`` metres away from it."""
        width, depth = self.size[:2]
        x, y = (
            (along, off),
            (width - off, along),
            (width - along, depth - off),
            (off, depth - along),
        )[wall]
        cosine, sine = _QUARTERS[wall]
        return Placed(name, model, x, y, z, cosine, sine, -1, wall)

    def _turned(self, quarter: int, jitter: float) -> tuple[float, float]:
        angle = np.deg2rad(self._between(-jitter, jitter))
        c, s = round(float(np.cos(angle)), 9), round(float(np.sin(angle)), 9)
        cosine, sine = _QUARTERS[quarter % 4]
        return cosine * c - sine * s, sine * c + cosine * s

    def _in_the_middle(self, name: str, model: Model) -> Placed | None:
        cosine, sine = self._turned(int(self.rng.integers(2)), 10.0)
        x = self._between(1.1, self.size[0] - 1.1)
        y = self._between(1.1, self.size[1] - 1.1)
        return Placed(name, model, x, y, 0.0, cosine, sine)

    def _on_top(self, name: str, model: Model) -> Placed | None:
        hosts = [
            (i, p) for i, p in enumerate(self.placed) if p.name in HOSTS[name] and p.model.tops
        ]
        if not hosts:
            raise LayoutError(f"nothing to put {name} on")
        taken = {p.support for p in self.placed if p.name == name}
        if name != "pillow":
            hosts = [(i, p) for i, p in hosts if i not in taken] or hosts
        index, host = hosts[int(self.rng.integers(len(hosts)))]
        top = host.model.tops[0]
        low, high = model.low, model.high
        room_x = (top.low[0] - low[0], top.high[0] - high[0])
        room_y = (top.low[1] - low[1], top.high[1] - high[1])
        if room_x[0] > room_x[1] or room_y[0] > room_y[1]:
            return None
        x, y = self._between(*room_x), self._between(*room_y)
        if name == "monitor":
            y = round(min(room_y[0] + 0.04, room_y[1]), 3)
        position = host.to_room(np.array([[x, y, top.z]]))[0]
        return Placed(
            name,
            model,
            float(position[0]),
            float(position[1]),
            float(position[2]),
            host.cosine,
            host.sine,
            index,
        )

    def _beside(self, name: str, model: Model) -> Placed | None:
        return self._beside_bed(name, model) if name == "nightstand" else self._chair(name, model)

    def _beside_bed(self, name: str, model: Model) -> Placed | None:
        beds = [p for p in self.placed if p.name == "bed"]
        if not beds:
            return self._at_wall(name, model)
        bed = beds[int(self.rng.integers(len(beds)))]
        gap = self._between(0.02, 0.12)
        if self.rng.random() < 0.5:
            x = bed.model.high[0] + gap - model.low[0]
        else:
            x = bed.model.low[0] - gap - model.high[0]
        y = bed.model.low[1] - model.low[1]
        position = bed.to_room(np.array([[x, y, 0.0]]))[0]
        return Placed(
            name,
            model,
            float(position[0]),
            float(position[1]),
            0.0,
            bed.cosine,
            bed.sine,
            -1,
            bed.wall,
        )

    def _chair(self, name: str, model: Model) -> Placed | None:
        """Placement a chair at the front of a desk or at any side of a table, else anywhere."""
        hosts = [p for p in self.placed if p.name in ("desk", "table")]
        if not hosts or self.rng.random() < 0.1:
            return self._in_the_middle(name, model)
        host = hosts[int(self.rng.integers(len(hosts)))]
        side = 0 if host.name == "desk" else int(self.rng.integers(4))
        low, high = host.model.low, host.model.high
        half = (high[:2] - low[:2]) / 2
        middle = (high[:2] + low[:2]) / 2
        reach = half[1 - side % 2] + model.high[1] + self._between(0.06, 0.2)
        slide = 0.3 * half[side % 2] * self._between(-1.0, 1.0)
        offset = ((slide, reach), (-reach, slide), (slide, -reach), (reach, slide))[side]
        position = host.to_room(np.array([[middle[0] + offset[0], middle[1] + offset[1], 0.0]]))[0]
        c, s = self._turned(side + 2, 12.0)
        cosine = host.cosine * c - host.sine * s
        sine = host.sine * c + host.cosine * s
        return Placed(name, model, float(position[0]), float(position[1]), 0.0, cosine, sine)


MOST_OBJECTS = 16
LEAST_OBJECTS = 11
_ATTEMPTS = 200


@dataclass(frozen=True)
class Recipe:
    """The furniture of a kind of room: ``needed`` always, ``extras`` as drawn at random.

    An extra may be a group ("desk+chair"). ``sides`` is the range of both side lengths, metres.
    """

    needed: tuple[str, ...]
    extras: tuple[str, ...]
    sides: tuple[float, float]


RECIPES = {
    "bedroom": Recipe(
        ("door", "window", "bed", "wardrobe", "nightstand", "lamp", "pillow", "pillow"),
        (
            "desk+chair+monitor",
            "nightstand",
            "chair",
            "picture",
            "wall clock",
            "potted plant",
            "trash bin",
            "pillow",
            "floor lamp",
            "window",
            "bookshelf",
            "picture",
        ),
        (4.2, 6.0),
    ),
    "office": Recipe(
        (
            "door",
            "whiteboard",
            "window",
            "desk",
            "bookshelf",
            "chair",
            "chair",
            "monitor",
            "lamp",
            "trash bin",
            "wall clock",
        ),
        (
            "desk+chair+monitor",
            "chair",
            "chair",
            "potted plant",
            "bookshelf",
            "picture",
            "trash bin",
            "window",
            "table+chair",
            "lamp",
            "sofa",
        ),
        (4.5, 6.5),
    ),
    "living": Recipe(
        (
            "door",
            "window",
            "sofa",
            "table",
            "bookshelf",
            "chair",
            "chair",
            "potted plant",
            "picture",
        ),
        (
            "sofa+pillow",
            "pillow",
            "chair",
            "chair",
            "floor lamp",
            "wall clock",
            "picture",
            "window",
            "potted plant",
            "trash bin",
            "desk+lamp+monitor",
            "pillow",
        ),
        (4.8, 7.0),
    ),
    "service": Recipe(
        (
            "door",
            "window",
            "bathtub",
            "refrigerator",
            "toilet",
            "sink",
            "trash bin",
            "table",
            "chair",
            "chair",
        ),
        (
            "chair",
            "sink",
            "potted plant",
            "wall clock",
            "picture",
            "trash bin",
            "floor lamp",
            "wardrobe",
            "window",
            "bookshelf",
        ),
        (4.0, 5.6),
    ),
}
_ORDER = ("door", "whiteboard", "window", "bed", "wardrobe", "bathtub", "sofa", "desk",
          "bookshelf", "refrigerator", "sink", "toilet", "nightstand", "table", "chair",
          "potted plant", "trash bin", "floor lamp", "picture", "wall clock", "monitor",
          "lamp", "pillow")  # fmt: skip


def furnish(
    kind: str, rng: np.random.Generator, spacing: float, scale: float = 1.0
) -> tuple[tuple[float, float, float], list[Placed]]:
    """Draw a random room of a kind: its size (width, depth, height) in metres and its furniture.

    ``scale`` multiplies the side lengths, but neither the height nor the furniture. Size and
    arrangement are drawn again until all needed pieces fit; extras that do not fit are left out.

    Raises:
        ValueError: an unknown kind.
        LayoutError: no arrangement was found in ``_ATTEMPTS`` attempts.
    """
    if kind not in RECIPES:
        raise ValueError(f"expected a room kind of {sorted(RECIPES)}, got {kind!r}")
    recipe = RECIPES[kind]
    for _ in range(_ATTEMPTS):
        size = (
            round(scale * float(rng.uniform(*recipe.sides)), 2),
            round(scale * float(rng.uniform(*recipe.sides)), 2),
            round(float(rng.uniform(2.45, 2.85)), 2),
        )
        target_count = int(rng.integers(LEAST_OBJECTS, MOST_OBJECTS + 1))
        furnisher = Furnisher(size, rng, spacing)
        try:
            _place(furnisher, recipe.needed)
        except LayoutError:
            continue
        order = rng.permutation(len(recipe.extras))
        for index in order:
            group = recipe.extras[int(index)].split("+")
            if len(furnisher.placed) + len(group) <= target_count:
                _place_if_possible(furnisher, group)
        if len(furnisher.placed) >= LEAST_OBJECTS - 2:
            return size, furnisher.placed
    raise LayoutError(f"no arrangement of a {kind} found in {_ATTEMPTS} attempts")


def _place(furnisher: Furnisher, names: Sequence[str]) -> None:
    for name in sorted(names, key=_ORDER.index):
        furnisher.add(name)


def _place_if_possible(furnisher: Furnisher, names: Sequence[str]) -> None:
    for name in sorted(names, key=_ORDER.index):
        try:
            furnisher.add(name)
        except LayoutError:
            return


_DRAWS = 1500
_HEIGHTS = (1.6, 0.7, 2.1, 1.1)


def free_floor(
    size: tuple[float, float, float],
    placed: Sequence[Placed],
    rng: np.random.Generator,
    count: int,
    clearance: float,
    edge: float,
) -> Array:
    """Draw up to ``count`` free floor positions (n, 2), room frame, metres.

    Positions have a distance of ``edge`` to the walls and ``clearance`` to furniture. In a
    crowded room the clearance is reduced until a quarter of ``count`` is found.
    """
    draw = rng.uniform([edge, edge], [size[0] - edge, size[1] - edge], size=(_DRAWS, 2)).round(3)
    free = np.ones(len(draw), bool)
    for margin in (clearance, clearance / 2, clearance / 4, 0.02):
        free = np.ones(len(draw), bool)
        for item in placed:
            if item.z < 2.0:
                free &= ~item.body.grown(margin).holds(draw[:, 0], draw[:, 1])
        if 4 * int(free.sum()) >= count:
            break
    return np.asarray(draw[free][:count])


def scanner_stands(
    size: tuple[float, float, float], placed: Sequence[Placed], rng: np.random.Generator
) -> Array:
    """Draw scanner positions (n, 3) in free space at several heights, room frame, metres."""
    floor = free_floor(size, placed, rng, 16, 0.1, 0.3)
    heights = [np.full((len(floor), 1), min(z, size[2] - 0.2)) for z in _HEIGHTS]
    return np.concatenate([np.concatenate([floor, z], axis=1) for z in heights])
