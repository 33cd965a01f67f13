"""Upright boxes turned about the vertical, and whether two of them overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.types import Array


@dataclass(frozen=True)
class Zone:
    """A box: centre and half sizes on the floor, turned by (cosine, sine), from z0 to z1."""

    x: float
    y: float
    half_x: float
    half_y: float
    cosine: float
    sine: float
    z0: float
    z1: float

    def grown(self, margin: float) -> Zone:
        """The zone with a margin on its four upright sides, metres."""
        return Zone(
            self.x,
            self.y,
            self.half_x + margin,
            self.half_y + margin,
            self.cosine,
            self.sine,
            self.z0,
            self.z1,
        )

    def corners(self) -> Array:
        """(4, 2) corners on the floor."""
        local = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [self.half_x, self.half_y]
        return np.stack(
            [
                self.x + self.cosine * local[:, 0] - self.sine * local[:, 1],
                self.y + self.sine * local[:, 0] + self.cosine * local[:, 1],
            ],
            axis=1,
        )

    def holds(self, x: Array, y: Array) -> Array:
        """(n,) bool: floor positions inside the zone."""
        dx, dy = x - self.x, y - self.y
        along = np.abs(self.cosine * dx + self.sine * dy)
        across = np.abs(-self.sine * dx + self.cosine * dy)
        return np.asarray((along <= self.half_x) & (across <= self.half_y))


def overlap(a: Zone, b: Zone) -> bool:
    """Whether two zones share volume (separating axes; touching does not count)."""
    slack = 1e-6
    if a.z0 >= b.z1 - slack or b.z0 >= a.z1 - slack:
        return False
    for one, other in ((a, b), (b, a)):
        for axis, half in (
            ((one.cosine, one.sine), one.half_x),
            ((-one.sine, one.cosine), one.half_y),
        ):
            corners = other.corners()
            along = (corners[:, 0] - one.x) * axis[0] + (corners[:, 1] - one.y) * axis[1]
            if along.min() >= half - slack or along.max() <= -half + slack:
                return False
    return True
