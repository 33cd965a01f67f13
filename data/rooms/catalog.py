"""All categories: how to build them and where they go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from data.rooms import furniture_fixtures as fixtures
from data.rooms import furniture_seats as seats
from data.rooms import furniture_small as small
from data.rooms import furniture_storage as storage
from data.rooms.model import Builder, Model

Place = Literal["wall_floor", "floor", "hung", "on", "beside"]
STRUCTURE = ("floor", "ceiling", "wall")


@dataclass(frozen=True)
class Category:
    """``label`` is the annotated class, ``place`` the rule by which the layout puts it.

    ``front`` is the free depth kept before it, metres; ``height`` the range of the lower
    edge of hung things.
    """

    label: str
    shape: Callable[[Builder], None]
    place: Place
    front: float = 0.0
    height: tuple[float, float] = (0.0, 0.0)


CATEGORIES: dict[str, Category] = {
    "bed": Category("bed", seats.bed, "wall_floor", 0.3),
    "pillow": Category("pillow", seats.pillow, "on"),
    "chair": Category("chair", seats.chair, "beside"),
    "sofa": Category("sofa", seats.sofa, "wall_floor", 0.4),
    "table": Category("table", storage.table, "floor"),
    "desk": Category("desk", storage.desk, "wall_floor", 0.75),
    "lamp": Category("lamp", small.lamp, "on"),
    "floor lamp": Category("lamp", small.floor_lamp, "wall_floor"),
    "monitor": Category("monitor", small.monitor, "on"),
    "bookshelf": Category("bookshelf", storage.bookshelf, "wall_floor", 0.4),
    "nightstand": Category("nightstand", storage.nightstand, "beside"),
    "wardrobe": Category("wardrobe", storage.wardrobe, "wall_floor", 0.5),
    "trash bin": Category("trash bin", storage.trash_bin, "wall_floor"),
    "potted plant": Category("potted plant", small.potted_plant, "wall_floor"),
    "toilet": Category("toilet", fixtures.toilet, "wall_floor", 0.4),
    "sink": Category("sink", fixtures.sink, "wall_floor", 0.5),
    "bathtub": Category("bathtub", fixtures.bathtub, "wall_floor", 0.3),
    "refrigerator": Category("refrigerator", fixtures.refrigerator, "wall_floor", 0.5),
    "door": Category("door", fixtures.door, "hung", 0.9),
    "window": Category("window", fixtures.window, "hung", 0.0, (0.85, 1.05)),
    "whiteboard": Category("whiteboard", fixtures.whiteboard, "hung", 0.0, (0.9, 1.05)),
    "wall clock": Category("wall clock", fixtures.wall_clock, "hung", 0.0, (1.55, 1.9)),
    "picture": Category("picture", fixtures.picture, "hung", 0.0, (1.3, 1.6)),
}
LABELS = tuple(sorted({category.label for category in CATEGORIES.values()}))


def build(name: str, rng: np.random.Generator, spacing: float) -> Model:
    """One random example of a category; ``name`` is a key of ``CATEGORIES``."""
    category = CATEGORIES[name]
    builder = Builder(spacing, rng)
    category.shape(builder)
    return builder.model(category.label)
