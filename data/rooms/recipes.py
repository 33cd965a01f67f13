"""What belongs in each kind of room, and how a room is furnished from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.rooms.layout import Furnisher, LayoutError, Placed

MOST_OBJECTS = 16
LEAST_OBJECTS = 11
_ATTEMPTS = 200


@dataclass(frozen=True)
class Recipe:
    """``needed`` are always there; of ``extras`` as many as are drawn and fit.

    ``sides`` is the range of both side lengths, metres.
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
    """Size (width, depth, height) in metres and furniture of a random room of a kind.

    ``scale`` multiplies the side lengths, not the height nor the furniture. Needed things
    always fit (sizes and places are drawn again until they do); extras that find no place are
    left out. ValueError for an unknown kind.
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
        wanted = int(rng.integers(LEAST_OBJECTS, MOST_OBJECTS + 1))
        furnisher = Furnisher(size, rng, spacing)
        try:
            _place(furnisher, recipe.needed)
        except LayoutError:
            continue
        order = rng.permutation(len(recipe.extras))
        for index in order:
            group = recipe.extras[int(index)].split("+")
            if len(furnisher.placed) + len(group) <= wanted:
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
