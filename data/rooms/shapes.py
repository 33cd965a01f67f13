"""Build triangle grids of simple surfaces, and furniture models from them; test boxes for overlap.

Every surface is closed or a rectangle. Triangles are counter-clockwise seen from outside, and
grid edges are at most ``spacing`` long (diagonals up to 1.42 times that). Coordinates are rounded
to 10 micrometres, so that they do not depend on the last bit of a sine.

Local frame: metres, origin in the middle of the footprint at floor height (for objects on a
wall or a desk: at their lowest point), x to the right, the back at -y, the front at +y, z up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np

from data.compiled import compiled
from data.geometry.meshes import unique_rows
from data.rooms.textures import Texture, material
from data.types import Array

Vector = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Surface:
    """A surface: ``vertices`` (n, 3) float64 m, unit ``normals`` (n, 3), ``triangles`` (m, 3)."""

    vertices: Array
    normals: Array
    triangles: Array

    def moved(self, x: float, y: float, z: float) -> Surface:
        """Return the surface shifted by (x, y, z) metres."""
        return Surface(self.vertices + np.array([x, y, z]), self.normals, self.triangles)

    def turned(self, axis: int, cosine: float, sine: float) -> Surface:
        """Return the surface rotated about a coordinate axis (0, 1, 2) through the origin."""
        i, j = (axis + 1) % 3, (axis + 2) % 3
        parts = []
        for array in (self.vertices, self.normals):
            turned = array.copy()
            turned[:, i] = cosine * array[:, i] - sine * array[:, j]
            turned[:, j] = sine * array[:, i] + cosine * array[:, j]
            parts.append(turned)
        return Surface(parts[0], parts[1], self.triangles)


def merge(surfaces: Sequence[Surface]) -> Surface:
    """Concatenate surfaces without welding them."""
    starts = np.cumsum([0] + [len(s.vertices) for s in surfaces])
    return Surface(
        np.concatenate([s.vertices for s in surfaces]),
        np.concatenate([s.normals for s in surfaces]),
        np.concatenate([s.triangles + start for s, start in zip(surfaces, starts)]),
    )


def _steps(length: float, spacing: float) -> int:
    return max(1, math.ceil(length / spacing - 1e-9))


def _quads(rows: int, columns: int) -> Array:
    """Return the triangles (2 * (rows - 1) * (columns - 1), 3) of a row-major vertex grid."""
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b = index[:-1, :-1].ravel(), index[1:, :-1].ravel()
    c, d = index[1:, 1:].ravel(), index[:-1, 1:].ravel()
    return np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])


@lru_cache(maxsize=256)
def _unit_square(rows: int, columns: int) -> tuple[Array, Array, Array]:
    """Return both coordinates, each (rows * columns, 1) in [0, 1], and the triangles of a grid."""
    s, t = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    parts = s.reshape(-1, 1), t.reshape(-1, 1), _quads(rows, columns)
    for part in parts:
        part.flags.writeable = False
    return parts


def rectangle(corner: Vector, u: Vector, v: Vector, spacing: float) -> Surface:
    """Build a rectangle from ``corner`` along ``u`` and ``v``; its normal is u x v."""
    (a, b, c), (d, e, f) = u, v
    rows = _steps(math.sqrt(a * a + b * b + c * c), spacing) + 1
    columns = _steps(math.sqrt(d * d + e * e + f * f), spacing) + 1
    s, t, triangles = _unit_square(rows, columns)
    points = np.array(corner) + s * np.array(u) + t * np.array(v)
    x, y, z = b * f - c * e, c * d - a * f, a * e - b * d
    normal = np.array([[x, y, z]]) / math.sqrt(x * x + y * y + z * z)
    return Surface(points.round(5), normal.repeat(len(points), 0), triangles)


def box(low: Vector, high: Vector, spacing: float) -> Surface:
    """Build a closed box with hard edges (sides do not share vertices)."""
    corner, size = _vector(low), _vector(np.subtract(high, low))
    opposite = _vector(high)
    rows = [_steps(abs(length), spacing) + 1 for length in size]
    return Surface(*_box(corner, opposite, size, (rows[0], rows[1], rows[2])))


def _vector(array: Array | Vector) -> Vector:
    return float(array[0]), float(array[1]), float(array[2])


@compiled
def _box(
    low: Vector, high: Vector, size: Vector, rows: tuple[int, int, int]
) -> tuple[Array, Array, Array]:
    """Return vertices, normals and triangles of the six rectangles of a box.

    ``rows`` are the numbers of vertices along the edges of each direction.
    """
    across = rows[0] * rows[1] + rows[1] * rows[2] + rows[2] * rows[0]
    quads = sum([(rows[k] - 1) * (rows[(k + 1) % 3] - 1) for k in range(3)])
    vertices, normals = np.empty((2 * across, 3)), np.zeros((2 * across, 3))
    triangles = np.empty((4 * quads, 3), np.int64)
    start, face = 0, 0
    for w in range(2, 5):
        for side in range(2):
            u, v = ((w + 1) % 3, (w + 2) % 3) if side == 0 else ((w + 2) % 3, (w + 1) % 3)
            normal = size[u] * size[v] * (1.0 if side == 0 else -1.0)
            normal /= np.sqrt(normal * normal)
            level = (high if side == 0 else low)[w % 3]
            num_rows, num_columns = rows[u], rows[v]
            half = (num_rows - 1) * (num_columns - 1)
            for i in range(num_rows):
                s = i * (1.0 / (num_rows - 1)) if i < num_rows - 1 else 1.0
                for j in range(num_columns):
                    t = j * (1.0 / (num_columns - 1)) if j < num_columns - 1 else 1.0
                    row = start + i * num_columns + j
                    # Adding 0.0 turns -0.0 into 0.0.
                    vertices[row, u] = np.rint((low[u] + s * size[u] + 0.0) * 1e5) / 1e5
                    vertices[row, v] = np.rint((low[v] + t * size[v] + 0.0) * 1e5) / 1e5
                    vertices[row, w % 3] = np.rint((level + 0.0) * 1e5) / 1e5
                    normals[row, w % 3] = normal
                    if i < num_rows - 1 and j < num_columns - 1:
                        a, b = row, row + num_columns
                        triangles[face, 0], triangles[face, 1] = a, b
                        triangles[face, 2] = b + 1
                        triangles[face + half, 0], triangles[face + half, 1] = a, b + 1
                        triangles[face + half, 2] = a + 1
                        face += 1
            start += num_rows * num_columns
            face += half
    return vertices, normals, triangles


def rounded_box(low: Vector, high: Vector, roundness: float, spacing: float) -> Surface:
    """Build a shape between a box (``roundness`` 0) and an ellipsoid (``roundness`` 1)."""
    flat = weld(box(low, high, spacing))
    center, half = np.add(low, high) / 2, np.subtract(high, low) / 2
    p = (flat.vertices - center) / half
    q = p * p
    ball = np.empty_like(p)
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        inside = 1 - q[:, j] / 2 - q[:, k] / 2 + q[:, j] * q[:, k] / 3
        ball[:, i] = p[:, i] * np.sqrt(np.maximum(inside, 0))
    shape = center + half * (p + roundness * (ball - p))
    return with_normals(shape.round(5), flat.triangles)


def lathe(profile: Sequence[tuple[float, float]], spacing: float, sides: int = 0) -> Surface:
    """Build a body of revolution about z; ``profile`` lists (radius, height) upwards, outside.

    The body is closed if the profile starts and ends at radius 0. Corners of the profile stay
    sharp. With ``sides`` 0 the spacing decides the number of sides, at least 12.
    """
    body = _lathe(tuple(profile), spacing, sides)
    return Surface(body.vertices.copy(), body.normals.copy(), body.triangles)


@lru_cache(maxsize=16)
def _lathe(profile: tuple[tuple[float, float], ...], spacing: float, sides: int) -> Surface:
    """Return the body of ``lathe``; several of a model's parts are often alike."""
    widest = max(radius for radius, _ in profile)
    count = sides or max(12, _steps(2 * np.pi * widest, spacing))
    angle = 2 * np.pi * np.arange(count + 1) / count
    cosine, sine = np.cos(angle).round(9), np.sin(angle).round(9)
    bands = []
    for (r0, z0), (r1, z1) in zip(profile[:-1], profile[1:]):
        length = float(np.sqrt((r1 - r0) ** 2 + (z1 - z0) ** 2))
        if length < 1e-9:
            continue
        t = np.linspace(0, 1, _steps(length, spacing) + 1)
        radius, height = r0 + (r1 - r0) * t, z0 + (z1 - z0) * t
        points = np.stack(
            [
                np.outer(cosine, radius).ravel(),
                np.outer(sine, radius).ravel(),
                np.tile(height, count + 1),
            ],
            axis=1,
        ).round(5)
        out, up = (z1 - z0) / length, -(r1 - r0) / length
        turn = np.repeat(np.stack([cosine * out, sine * out, np.full(count + 1, up)], 1), len(t), 0)
        bands.append(Surface(points, turn, _quads(count + 1, len(t))))
    return weld(merge(bands), keep_normals=True)


def weld(surface: Surface, keep_normals: bool = False) -> Surface:
    """Merge vertices with equal coordinates (with ``keep_normals`` also equal normals).

    Triangles without area are dropped.
    """
    key = (surface.vertices * 1e5).round().astype(np.int64)
    if keep_normals:
        key = np.concatenate([key, (surface.normals * 1e3).round().astype(np.int64)], axis=1)
    first, kinds = unique_rows(key)
    triangles = kinds[surface.triangles]
    corners = surface.vertices[first][triangles]
    cross = face_normals(corners)
    solid = (cross * cross).sum(axis=1) > 1e-16
    return Surface(surface.vertices[first], surface.normals[first], triangles[solid])


def face_normals(corners: Array) -> Array:
    """Return the normals (n, 3) of triangles (n, 3, 3), twice their area long."""
    (a, b, c), (d, e, f) = ((corners[:, k] - corners[:, 0]).T for k in (1, 2))
    return np.stack([b * f - c * e, c * d - a * f, a * e - b * d], axis=1)


def with_normals(vertices: Array, triangles: Array) -> Surface:
    """Make a surface whose vertex normals are area-weighted means of its triangles' normals."""
    corners = vertices[triangles]
    cross = face_normals(corners)
    normals = np.zeros_like(vertices)
    for corner in range(3):
        for axis in range(3):
            weights = np.bincount(triangles[:, corner], cross[:, axis], len(vertices))
            normals[:, axis] += weights
    length = np.sqrt((normals * normals).sum(axis=1, keepdims=True))
    return Surface(vertices, normals / np.maximum(length, 1e-12), triangles)


def shaped(surface: Surface, change: Callable[[Array], Array]) -> Surface:
    """Apply ``change`` to a surface's vertices (n, 3) and recompute its normals."""
    return with_normals(change(surface.vertices).round(5), surface.triangles)


@dataclass(frozen=True)
class Zone:
    """An upright box: centre and half sizes on the floor, rotated by (cosine, sine), z0 to z1.

    Lengths are in metres.
    """

    x: float
    y: float
    half_x: float
    half_y: float
    cosine: float
    sine: float
    z0: float
    z1: float

    def grown(self, margin: float) -> Zone:
        """Return the zone enlarged by a margin (metres) on its four upright sides."""
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

    @cached_property
    def outline(self) -> tuple[tuple[float, float], ...]:
        """The corners (x, y) on the floor."""
        x, y, c, s, a, b = self.x, self.y, self.cosine, self.sine, self.half_x, self.half_y
        signed = ((-a, -b), (a, -b), (a, b), (-a, b))
        return tuple((x + c * u - s * v, y + s * u + c * v) for u, v in signed)

    def corners(self) -> Array:
        """Return the corners on the floor, (4, 2)."""
        return np.array(self.outline)

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
    reach = math.hypot(a.half_x, a.half_y) + math.hypot(b.half_x, b.half_y)
    if math.hypot(a.x - b.x, a.y - b.y) > reach:
        return False
    for zone, other in ((a, b), (b, a)):
        for axis, half in (
            ((zone.cosine, zone.sine), zone.half_x),
            ((-zone.sine, zone.cosine), zone.half_y),
        ):
            along = [(x - zone.x) * axis[0] + (y - zone.y) * axis[1] for x, y in other.outline]
            if min(along) >= half - slack or max(along) <= -half + slack:
                return False
    return True


PLAIN_COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
QUIET_COLORS = ("brown", "white", "grey", "black", "beige")


@dataclass(frozen=True)
class Top:
    """A horizontal rectangle on which other objects can stand, in the model's frame.

    ``clear`` is the height in metres that is free above it.
    """

    low: tuple[float, float]
    high: tuple[float, float]
    z: float
    clear: float = np.inf


@dataclass(frozen=True, eq=False)
class Model:
    """A finished piece of furniture: a surface, a texture index per triangle, and its tops."""

    label: str
    surface: Surface
    texture_ids: Array
    textures: tuple[Texture, ...]
    tops: tuple[Top, ...]

    @cached_property
    def low(self) -> Array:
        """Smallest corner (3,) of its bounding box, metres, local frame."""
        return np.asarray(self.surface.vertices.min(axis=0))

    @cached_property
    def high(self) -> Array:
        """Largest corner (3,) of its bounding box, metres, local frame."""
        return np.asarray(self.surface.vertices.max(axis=0))


@dataclass(eq=False)
class Builder:
    """Collects the parts of a model, and draws its random sizes and textures."""

    spacing: float
    rng: np.random.Generator
    surfaces: list[Surface] = field(default_factory=list)
    textures: list[Texture] = field(default_factory=list)
    tops: list[Top] = field(default_factory=list)

    def uniform(self, low: float, high: float) -> float:
        """Draw a length in metres, rounded to millimetres."""
        return round(float(self.rng.uniform(low, high)), 3)

    def choice(self, options: Sequence[str]) -> str:
        """Draw one of the options."""
        return str(options[int(self.rng.integers(len(options)))])

    def chance(self, probability: float) -> bool:
        """Return True with a probability."""
        return bool(self.rng.random() < probability)

    def texture(self, kinds: Sequence[str], quiet: float = 0.35) -> Texture:
        """Draw a material: a palette colour and a pattern of ``kinds``.

        ``quiet`` is the probability of a colour of ``QUIET_COLORS``.
        """
        colors = QUIET_COLORS if self.chance(quiet) else PLAIN_COLORS
        color, kind = self.choice(colors), self.choice(kinds)
        scale = {"plain": 0.3, "wood": 0.06, "stripes": 0.07, "checker": 0.11}.get(kind, 0.1)
        scale *= self.uniform(0.8, 1.4)
        return material(color, kind, scale=round(scale, 3), axis=int(self.rng.integers(3)))

    def add(self, texture: Texture, surface: Surface) -> None:
        """Add a surface."""
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

    def top(
        self, x0: float, y0: float, x1: float, y1: float, z: float, clear: float = np.inf
    ) -> None:
        """Declare a rectangle on which other objects can stand, with ``clear`` metres above it."""
        self.tops.append(Top((x0, y0), (x1, y1), z, clear))

    def model(self, label: str) -> Model:
        """Make the model of all parts."""
        surface = merge(self.surfaces)
        unique = tuple(dict.fromkeys(self.textures))
        ids = [
            np.full(len(part.triangles), unique.index(texture))
            for part, texture in zip(self.surfaces, self.textures)
        ]
        return Model(label, surface, np.concatenate(ids), unique, tuple(self.tops))
