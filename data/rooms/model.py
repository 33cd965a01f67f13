"""A piece of furniture before it stands anywhere: parts, materials and where things fit on it.

Local frame: metres, origin in the middle of the footprint at floor height (for things on a
wall or a desk: at their lowest point), x to the right, the back at -y, the front at +y, z up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from data.rooms.shapes import Surface, Vector, box, lathe, merge, rounded_box
from data.rooms.textures import Texture, material
from data.types import Array

PLAIN_COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
QUIET_COLORS = ("brown", "white", "grey", "black", "beige")


@dataclass(frozen=True)
class Top:
    """A level rectangle other things can stand on, in the model's frame."""

    low: tuple[float, float]
    high: tuple[float, float]
    z: float


@dataclass(frozen=True, eq=False)
class Model:
    """A finished piece: one surface, a texture index per triangle, and its tops."""

    label: str
    surface: Surface
    texture_ids: Array
    textures: tuple[Texture, ...]
    tops: tuple[Top, ...]

    @property
    def low(self) -> Array:
        """(3,) least corner of the box around it, metres, local frame."""
        return np.asarray(self.surface.vertices.min(axis=0))

    @property
    def high(self) -> Array:
        """(3,) greatest corner of the box around it, metres, local frame."""
        return np.asarray(self.surface.vertices.max(axis=0))


@dataclass(eq=False)
class Builder:
    """Collects parts; every method adds one and takes its texture first."""

    spacing: float
    rng: np.random.Generator
    surfaces: list[Surface] = field(default_factory=list)
    textures: list[Texture] = field(default_factory=list)
    tops: list[Top] = field(default_factory=list)

    def uniform(self, low: float, high: float) -> float:
        """A length in metres, rounded to millimetres."""
        return round(float(self.rng.uniform(low, high)), 3)

    def choice(self, options: Sequence[str]) -> str:
        """One of the options."""
        return str(options[int(self.rng.integers(len(options)))])

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return bool(self.rng.random() < probability)

    def texture(self, kinds: Sequence[str], quiet: float = 0.35) -> Texture:
        """A random material: a palette colour (``quiet``: rate of undyed ones) and a pattern."""
        colors = QUIET_COLORS if self.chance(quiet) else PLAIN_COLORS
        color, kind = self.choice(colors), self.choice(kinds)
        scale = {"plain": 0.3, "wood": 0.06, "stripes": 0.07, "checker": 0.11}.get(kind, 0.1)
        scale *= self.uniform(0.8, 1.4)
        return material(color, kind, scale=round(scale, 3), axis=int(self.rng.integers(3)))

    def add(self, texture: Texture, surface: Surface) -> None:
        """Add any surface."""
        self.surfaces.append(surface)
        self.textures.append(texture)

    def box(self, texture: Texture, low: Vector, high: Vector) -> None:
        """Add a box with hard edges."""
        self.add(texture, box(low, high, self.spacing))

    def cushion(self, texture: Texture, low: Vector, high: Vector, roundness: float) -> None:
        """Add a rounded box."""
        self.add(texture, rounded_box(low, high, roundness, self.spacing))

    def lathe(
        self,
        texture: Texture,
        profile: Sequence[tuple[float, float]],
        at: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """Add a body of revolution about the vertical through ``at``."""
        self.add(texture, lathe(profile, self.spacing).moved(at[0], at[1], 0.0))

    def rod(
        self, texture: Texture, radius: float, z0: float, z1: float, x: float, y: float
    ) -> None:
        """Add an upright closed cylinder."""
        self.lathe(texture, [(0, z0), (radius, z0), (radius, z1), (0, z1)], (x, y))

    def legs(
        self,
        texture: Texture,
        width: float,
        depth: float,
        height: float,
        thick: float,
        round_: bool,
    ) -> None:
        """Add four legs under a rectangle of ``width`` by ``depth``."""
        for x in (-width / 2 + thick / 2, width / 2 - thick / 2):
            for y in (-depth / 2 + thick / 2, depth / 2 - thick / 2):
                if round_:
                    self.rod(texture, thick / 2, 0.0, height, x, y)
                else:
                    h = thick / 2
                    self.box(texture, (x - h, y - h, 0.0), (x + h, y + h, height))

    def top(self, x0: float, y0: float, x1: float, y1: float, z: float) -> None:
        """Declare a place where other things can stand."""
        self.tops.append(Top((x0, y0), (x1, y1), z))

    def model(self, label: str) -> Model:
        """The finished piece."""
        surface = merge(self.surfaces)
        unique = tuple(dict.fromkeys(self.textures))
        ids = [
            np.full(len(part.triangles), unique.index(texture))
            for part, texture in zip(self.surfaces, self.textures)
        ]
        return Model(label, surface, np.concatenate(ids), unique, tuple(self.tops))
