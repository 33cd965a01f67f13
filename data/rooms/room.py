"""Generate a room in memory: geometry, materials, annotated objects and baked light.

World frame: metres, z up; the room is rotated by a few degrees against the axes and shifted so
that coordinates are positive, as in ScanNet++.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.compiled import compiled
from data.geometry.raycast import Raycaster
from data.rooms.clutter import scatter
from data.rooms.layout import Placed, furnish, scanner_stands
from data.rooms.shapes import Surface, box, face_normals, merge, rectangle
from data.rooms.textures import Texture, TextureTable, material
from data.types import Array

_DIRECTIONS = 48
_REACH = 1.2
_OFFSET = 1e-3
_INTO_FACE = 0.15
_AMBIENT = np.array([0.50, 0.50, 0.51])
_BOUNCE = 0.55
_LAMP = np.array([0.62, 0.60, 0.55])
_WINDOW = np.array([0.36, 0.39, 0.43])


@dataclass(frozen=True, eq=False)
class Light:
    """Light sources in the room frame, metres.

    ``lamps`` are the positions (x, y) of ceiling lamps at ``height``; ``windows`` (n, 2, 3) are
    pairs of a point on a window and a direction into the room.
    """

    lamps: tuple[tuple[float, float], ...]
    height: float
    windows: Array


def make_light(
    size: tuple[float, float, float], placed: Sequence[Placed], rng: np.random.Generator
) -> Light:
    """Make the light of a room: one or two ceiling lamps and the windows of the layout."""
    w, d, h = size
    if rng.random() < 0.5:
        lamps: tuple[tuple[float, float], ...] = ((round(w / 2, 2), round(d / 2, 2)),)
    elif w > d:
        lamps = ((round(0.3 * w, 2), round(d / 2, 2)), (round(0.7 * w, 2), round(d / 2, 2)))
    else:
        lamps = ((round(w / 2, 2), round(0.3 * d, 2)), (round(w / 2, 2), round(0.7 * d, 2)))
    panes = []
    for item in placed:
        if item.model.label != "window":
            continue
        width, height = item.model.high[0], item.model.high[2]
        for x in (-0.5, 0.5):
            for z in (0.3, 0.7):
                local = np.array([[x * width, 0.12, z * height], [x * width, 1.12, z * height]])
                points = item.to_room(local)
                panes.append(np.stack([points[0], points[1] - points[0]]))
    return Light(lamps, h, np.stack(panes) if panes else np.zeros((0, 2, 3)))


def sphere_directions(count: int) -> Array:
    """Return (count, 3) evenly distributed unit vectors (Fibonacci lattice), rounded to 1e-9."""
    index = np.arange(count) + 0.5
    z = 1 - 2 * index / count
    radius = np.sqrt(1 - z * z)
    angle = np.pi * (1 + 5**0.5) * index
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=1).round(9)


def _dot(a: Array, b: Array) -> Array:
    return np.asarray(a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2])


def surface_starts(vertices: Array, normals: Array, triangles: Array) -> Array:
    """Return ray origins (V, 3): slightly above the surface and moved away from shared edges."""
    middles = vertices[triangles].mean(axis=1)
    count = np.maximum(np.bincount(triangles.ravel(), minlength=len(vertices)), 1)
    mean = np.empty_like(vertices)
    for axis in range(3):
        weights = np.repeat(middles[:, axis], 3)
        mean[:, axis] = np.bincount(triangles.ravel(), weights, len(vertices)) / count
    inwards = _INTO_FACE * (mean - vertices)
    along = inwards - _dot(inwards, normals)[:, None] * normals
    return np.asarray(vertices + along + _OFFSET * normals)


def _seen_from(starts: Array, normals: Array, caster: Raycaster, stands: Array) -> Array:
    """(V,) bool: surface points that face and are visible from one of ``stands`` (n, 3)."""
    seen = np.zeros(len(starts), bool)
    for stand in stands:
        rows, rays = _facing(starts, normals, np.flatnonzero(~seen), stand)
        seen[rows] = ~caster.occluded(rays[:, :3], rays[:, 3:], 0.999)
    return seen


@compiled
def _facing(starts: Array, normals: Array, rows: Array, stand: Array) -> tuple[Array, Array]:
    """Return the ``rows`` of starts that face a stand, and their rays to it (n, 6) float32."""
    chosen, rays = np.empty(len(rows), np.int64), np.empty((len(rows), 6), np.float32)
    count = 0
    for row in rows:
        x, y, z = starts[row, 0], starts[row, 1], starts[row, 2]
        dx, dy, dz = stand[0] - x, stand[1] - y, stand[2] - z
        if dx * normals[row, 0] + dy * normals[row, 1] + dz * normals[row, 2] > 0:
            chosen[count] = row
            rays[count, 0], rays[count, 1], rays[count, 2] = x, y, z
            rays[count, 3], rays[count, 4], rays[count, 5] = dx, dy, dz
            count += 1
    return chosen[:count], rays[:count]


def _ambient(starts: Array, normals: Array, faces: Array, caster: Raycaster) -> Array:
    """Compute the ambient light (V,) in 0..1: the openness of the space above each point.

    Rays that leave the closed room or hit a surface from behind are not counted.
    """
    ambient, total = np.zeros(len(starts)), np.full(len(starts), 1e-9)
    for direction in sphere_directions(_DIRECTIONS):
        rows, cosines, origins = _lit_along(starts, normals, direction)
        distance, triangle = caster.cast(origins, np.broadcast_to(direction, origins.shape))
        _add_openness(rows, cosines, direction, faces, distance, triangle, ambient, total)
    return np.asarray(ambient / total)


@compiled
def _lit_along(starts: Array, normals: Array, direction: Array) -> tuple[Array, Array, Array]:
    """Return rows (n,) of points that face a direction, the angles' cosines, and the points."""
    rows, cosines = np.empty(len(starts), np.int64), np.empty(len(starts))
    origins = np.empty((len(starts), 3), np.float32)
    dx, dy, dz = direction[0], direction[1], direction[2]
    count = 0
    for row in range(len(starts)):
        cosine = normals[row, 0] * dx + normals[row, 1] * dy + normals[row, 2] * dz
        if cosine > 0.05:
            rows[count], cosines[count] = row, cosine
            for axis in range(3):
                origins[count, axis] = starts[row, axis]
            count += 1
    return rows[:count], cosines[:count], origins[:count]


@compiled
def _add_openness(
    rows: Array,
    cosines: Array,
    direction: Array,
    faces: Array,
    distance: Array,
    triangle: Array,
    ambient: Array,
    total: Array,
) -> None:
    """Add each ray's part to the ``ambient`` light of its row, and its weight to ``total``."""
    dx, dy, dz = direction[0], direction[1], direction[2]
    for i in range(len(rows)):
        face = triangle[i]
        if face < 0:
            continue
        normal = faces[face]
        if normal[0] * dx + normal[1] * dy + normal[2] * dz < 0:
            away = min(np.float32(distance[i] / np.float32(_REACH)), np.float32(1))
            ambient[rows[i]] += cosines[i] * away
            total[rows[i]] += cosines[i]


def _from_point(
    starts: Array, normals: Array, source: Array, caster: Raycaster
) -> tuple[Array, Array]:
    """Return cosine-weighted light (V,) from a point, 0 in shadow, and offsets (V, 3) to it."""
    to_light = source - starts
    square = _dot(to_light, to_light)
    distance = np.sqrt(square)
    cosine = _dot(normals, to_light) / np.maximum(distance, 1e-6)
    rows = np.flatnonzero(cosine > 0)
    shadow = caster.occluded(starts[rows], to_light[rows], 0.995)
    light = np.zeros(len(starts))
    light[rows] = cosine[rows] * ~shadow
    return light, to_light


def bake(
    starts: Array,
    normals: Array,
    faces: Array,
    caster: Raycaster,
    light: Light,
    from_room: Array,
) -> Array:
    """Compute the light (V, 3) that reaches surface points ``starts`` with ``normals`` (V, 3)."""
    bounced = 1 + _BOUNCE * np.maximum(-normals[:, 2], 0)
    ambient = _ambient(starts, normals, faces, caster) * bounced
    total = ambient[:, None] * _AMBIENT
    for x, y in light.lamps:
        for dx, dy in ((-0.2, -0.1), (0.2, 0.1), (-0.1, 0.2), (0.1, -0.2)):
            source = _to_world(from_room, np.array([x + dx, y + dy, light.height - 0.08]))
            amount, offset = _from_point(starts, normals, source, caster)
            fall = 1 / (1 + _dot(offset, offset) / 12)
            total += (amount * fall / 4 / len(light.lamps) ** 0.5)[:, None] * _LAMP
    for point, inward in light.windows:
        source = _to_world(from_room, point)
        axis = _to_world(from_room, point + inward) - source
        amount, offset = _from_point(starts, normals, source, caster)
        square = _dot(offset, offset)
        beam = np.maximum(-_dot(offset, axis), 0) / np.sqrt(np.maximum(square, 1e-6))
        total += (amount * beam / (1 + square / 5) / 4)[:, None] * _WINDOW
    return np.asarray(total)


def _to_world(pose: Array, point: Array) -> Array:
    return np.asarray([_dot(pose[i, :3], point) + pose[i, 3] for i in range(3)])


_MOST_TURN = 9.0
_RINGS = 2


@dataclass(frozen=True, eq=False)
class RoomObject:
    """One annotated object: a piece of furniture or a part of the structure.

    ``rotation`` (3, 3) and ``translation`` (3,) transform its local frame to the world; ``low``
    and ``high`` (3,) are its box in the local frame; ``support`` is the index of the object it
    stands on (-1: none); ``colors`` are the palette names of all its materials.
    """

    label: str
    name: str
    rotation: Array
    translation: Array
    low: Array
    high: Array
    support: int
    colors: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Mesh:
    """The visible surface of a room.

    ``vertices`` (V, 3) float64 m, ``normals`` (V, 3), ``triangles`` (F, 3) int64,
    ``vertex_objects`` (V,) and ``vertex_textures`` (V,) int64, ``light`` (V, 3) float64.
    """

    vertices: Array
    normals: Array
    triangles: Array
    vertex_objects: Array
    vertex_textures: Array
    light: Array


@dataclass(frozen=True, eq=False)
class Room:
    """A finished room: ``size`` (width, depth, height) m; ``from_room`` (4, 4), room to world.

    ``placed`` is the furniture, without the small things that lie about.
    """

    kind: str
    seed: tuple[int, ...]
    size: tuple[float, float, float]
    from_room: Array
    objects: tuple[RoomObject, ...]
    mesh: Mesh
    textures: TextureTable
    caster: Raycaster
    placed: tuple[Placed, ...]


def make_room(
    seed: Sequence[int],
    kind: str,
    spacing: float = 0.05,
    scale: float = 1.0,
    corner: tuple[float, float] = (0.0, 0.0),
    clutter: int = 0,
) -> Room:
    """Make a random room of a kind (``data.rooms.ids.KINDS``); equal arguments give equal rooms.

    ``spacing`` is the longest grid edge of the mesh in metres, ``scale`` multiplies the room's
    sides, and ``corner`` (x, y) in metres is the corner of the room with the smallest coordinates.
    ``clutter`` is the usual number of small things, which change nothing of the furniture.
    """
    entropy = tuple(int(value) for value in seed)
    rng = np.random.default_rng([*entropy, 1])
    size, placed = furnish(kind, rng, spacing, scale)
    from_room = _turn_and_shift(size, rng, corner)
    textures: list[Texture] = []
    objects: list[RoomObject] = []
    surfaces: list[tuple[Surface, Array]] = []
    light = make_light(size, placed, rng)
    for label, surface, ids, own in _structure(size, light, rng, spacing):
        objects.append(_object(label, label, surface, own, np.eye(4), from_room, -1))
        surfaces.append((_in_world(surface, from_room), ids + len(textures)))
        textures.extend(own)
    shift = len(objects)
    things = scatter(size, placed, np.random.default_rng([*entropy, 7]), clutter, spacing)
    for item in (*placed, *things):
        pose = np.eye(4)
        pose[:2, :2] = [[item.cosine, -item.sine], [item.sine, item.cosine]]
        pose[:3, 3] = item.x, item.y, item.z
        surface = item.model.surface
        support = item.support + shift if item.support >= 0 else -1
        objects.append(
            _object(
                item.model.label, item.name, surface, item.model.textures, pose, from_room, support
            )
        )
        moved = _in_world(_in_world(surface, pose), from_room)
        surfaces.append((moved, item.model.texture_ids + len(textures)))
        textures.extend(item.model.textures)
    stands = apply(from_room, scanner_stands(size, placed, rng))
    mesh, caster = _visible_mesh(surfaces, light, from_room, stands)
    return Room(
        kind,
        entropy,
        size,
        from_room,
        tuple(objects),
        mesh,
        TextureTable(textures),
        caster,
        tuple(placed),
    )


def apply(pose: Array, points: Array) -> Array:
    """Apply a rigid (4, 4) ``pose`` to (n, 3) points without BLAS: equal bits on every machine."""
    x, y, z = points[:, 0], points[:, 1], points[:, 2]
    rows = [pose[i, 0] * x + pose[i, 1] * y + pose[i, 2] * z + pose[i, 3] for i in range(3)]
    return np.stack(rows, axis=1)


def _compose(first: Array, second: Array) -> Array:
    """Compose two poses (4, 4): ``second`` is applied first."""
    out = np.eye(4)
    out[:3, :3] = apply(_rotation_only(first), second[:3, :3].T).T
    out[:3, 3] = apply(first, second[:3, 3][None])[0]
    return out


def _rotation_only(pose: Array) -> Array:
    out = np.eye(4)
    out[:3, :3] = pose[:3, :3]
    return out


def _in_world(surface: Surface, pose: Array) -> Surface:
    normals = apply(_rotation_only(pose), surface.normals)
    return Surface(apply(pose, surface.vertices), normals, surface.triangles)


def _turn_and_shift(
    size: tuple[float, float, float], rng: np.random.Generator, corner: tuple[float, float]
) -> Array:
    angle = np.deg2rad(round(float(rng.uniform(-_MOST_TURN, _MOST_TURN)), 3))
    c, s = round(float(np.cos(angle)), 9), round(float(np.sin(angle)), 9)
    pose = np.eye(4)
    pose[:2, :2] = [[c, -s], [s, c]]
    corners = np.array([[x, y, 0.0] for x in (0, size[0]) for y in (0, size[1])])
    least = apply(pose, corners).min(axis=0)
    pose[:3, 3] = (-least + [corner[0] + 0.2, corner[1] + 0.2, 0.1]).round(4)
    return pose


def _object(
    label: str,
    name: str,
    surface: Surface,
    textures: Sequence[Texture],
    pose: Array,
    from_room: Array,
    support: int,
) -> RoomObject:
    world = _compose(from_room, pose)
    colors = tuple(dict.fromkeys(texture.color for texture in textures))
    low, high = surface.vertices.min(axis=0), surface.vertices.max(axis=0)
    return RoomObject(label, name, world[:3, :3], world[:3, 3], low, high, support, colors)


def _structure(
    size: tuple[float, float, float], light: Light, rng: np.random.Generator, spacing: float
) -> list[tuple[str, Surface, Array, list[Texture]]]:
    """Build floor, four walls and ceiling (with lamps), facing inwards, in the room frame.

    Each entry is a label, its surface, the texture index of each triangle, and its textures.
    """
    w, d, h = size
    floors = ("wood", "checker", "weave", "speckle")
    kind = floors[int(rng.integers(4))]
    scale = {"wood": 0.12, "checker": 0.4, "weave": 0.2, "speckle": 0.15}[kind]
    color = ("brown", "beige", "grey", "white")[int(rng.integers(4))]
    floor = material(color, kind, scale=scale, axis=int(rng.integers(2)))
    paint = [material("white"), material("beige"), material("grey")]
    tints = ((0.80, 0.86, 0.93), (0.93, 0.88, 0.76), (0.84, 0.90, 0.82), (0.92, 0.84, 0.82))
    tint = tints[int(rng.integers(4))]
    darker = (0.93 * tint[0], 0.93 * tint[1], 0.93 * tint[2])
    paint.append(Texture("plain", tint, darker, 0.4))
    wall = paint[int(rng.choice(4, p=[0.35, 0.2, 0.05, 0.4]))]
    parts: list[tuple[str, Surface, Array, list[Texture]]] = []

    def flat(label: str, surface: Surface, texture: Texture) -> None:
        parts.append((label, surface, np.zeros(len(surface.triangles), np.int64), [texture]))

    flat("floor", rectangle((0, 0, 0), (w, 0, 0), (0, d, 0), spacing), floor)
    flat("wall", rectangle((0, 0, 0), (0, 0, h), (w, 0, 0), spacing), wall)
    flat("wall", rectangle((w, 0, 0), (0, 0, h), (0, d, 0), spacing), wall)
    flat("wall", rectangle((w, d, 0), (0, 0, h), (-w, 0, 0), spacing), wall)
    flat("wall", rectangle((0, d, 0), (0, 0, h), (0, -d, 0), spacing), wall)
    ceiling = rectangle((0, 0, h), (0, d, 0), (w, 0, 0), spacing)
    panels = [
        box((x - 0.28, y - 0.28, h - 0.05), (x + 0.28, y + 0.28, h), spacing)
        for x, y in light.lamps
    ]
    ids = [np.zeros(len(ceiling.triangles), np.int64)]
    ids += [np.ones(len(panel.triangles), np.int64) for panel in panels]
    lamp = Texture("plain", (1.0, 0.98, 0.93), (1.0, 1.0, 0.98), 0.3, 0, 1.2)
    textures = [material("white", "plain", scale=0.5), lamp]
    parts.append(("ceiling", merge([ceiling, *panels]), np.concatenate(ids), textures))
    return parts


def _visible_mesh(
    surfaces: Sequence[tuple[Surface, Array]], light: Light, from_room: Array, stands: Array
) -> tuple[Mesh, Raycaster]:
    """Merge all surfaces into one lit mesh; drop vertices far from those seen from ``stands``.

    Vertices within ``_RINGS`` edges of a seen vertex are kept.
    """
    whole = merge([surface for surface, _ in surfaces])
    vertices = whole.vertices.round(5)
    sizes = [len(surface.vertices) for surface, _ in surfaces]
    owners = np.repeat(np.arange(len(sizes)), sizes)
    textures = np.zeros(len(vertices), np.int64)
    textures[whole.triangles] = np.concatenate([ids for _, ids in surfaces])[:, None]
    caster = Raycaster(vertices, whole.triangles)
    starts = surface_starts(vertices, whole.normals, whole.triangles)
    is_seen = _seen_from(starts, whole.normals, caster, stands)
    is_used = is_seen.copy()
    for _ in range(_RINGS):
        kept_triangles = whole.triangles[is_used[whole.triangles].any(axis=1)]
        is_used[kept_triangles] = True
    faces = face_normals(vertices[whole.triangles])
    brightness = bake(starts[is_used], whole.normals[is_used], faces, caster, light, from_room)
    triangles = (np.cumsum(is_used) - 1)[kept_triangles]
    mesh = Mesh(
        vertices[is_used],
        whole.normals[is_used],
        triangles,
        owners[is_used],
        textures[is_used],
        brightness,
    )
    return mesh, Raycaster(mesh.vertices, mesh.triangles)


def warm() -> None:
    """Load the compiled loops that make a room, or compile them; cast no ray."""
    box((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0)
    rows, points = np.zeros(1, np.int64), np.zeros((1, 3))
    _facing(points, points, rows, points[0])
    _lit_along(points, points, points[0])
    numbers, distance = np.zeros(1), np.zeros(1, np.float32)
    _add_openness(rows, numbers, points[0], points, distance, rows, numbers, numbers)
