"""A room as a scanner and an annotator would hand it over: welded mesh and object groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.rooms.render import vertex_colors
from data.rooms.room import Room
from data.types import Array


@dataclass(frozen=True, eq=False)
class Group:
    """One annotation group.

    ``index`` is the object's position in ``room.objects``; ``group_id`` and ``object_id`` are
    ScanNet++'s ``id`` and ``objectId``, which differ; ``vertex_ids`` (n,) sorted. ``centroid``
    (3,), ``lengths`` (3,) full sizes and ``axes`` (3, 3) columns give the box in the world.
    """

    index: int
    label: str
    group_id: int
    object_id: int
    vertex_ids: Array
    centroid: Array
    lengths: Array
    axes: Array


@dataclass(frozen=True, eq=False)
class RoomScan:
    """``vertices`` (V, 3) float32 m, ``colors`` (V, 3) uint8, ``triangles`` (F, 3) int32.

    ``groups`` stand in file order; ``owners`` (V,) is the object each vertex was made for.
    """

    vertices: Array
    colors: Array
    triangles: Array
    owners: Array
    groups: tuple[Group, ...]


def scan_room(room: Room) -> RoomScan:
    """Weld the vertices of each object and group them.

    A pillow belongs to its own group and to what it lies on. Group order, ``id`` and
    ``objectId`` are three different numberings, so that mixing them up shows.
    """
    mesh, colors = room.mesh, vertex_colors(room)
    key = (mesh.vertices * 1e5).round().astype(np.int64)
    order = np.lexsort((key[:, 2], key[:, 1], key[:, 0], mesh.vertex_objects))
    sorted_key = np.concatenate([mesh.vertex_objects[order, None], key[order]], axis=1)
    is_new = np.ones(len(order), bool)
    is_new[1:] = (sorted_key[1:] != sorted_key[:-1]).any(axis=1)
    label = np.empty(len(order), np.int64)
    label[order] = np.cumsum(is_new) - 1
    first = order[is_new]
    counts = np.bincount(label)
    mean = np.stack([np.bincount(label, colors[:, c]) / counts for c in range(3)], axis=1)
    triangles = label[mesh.triangles]
    solid = (triangles != np.roll(triangles, 1, axis=1)).all(axis=1)
    owners = mesh.vertex_objects[first]
    vertices = mesh.vertices[first].astype(np.float32)
    groups = _groups(room, owners)
    return RoomScan(
        vertices,
        (mean + 0.5).astype(np.uint8),
        triangles[solid].astype(np.int32),
        owners,
        groups,
    )


def _groups(room: Room, owners: Array) -> tuple[Group, ...]:
    rng = np.random.default_rng([*room.seed, 3])
    count = len(room.objects)
    order = rng.permutation(count)
    shift = int(rng.integers(2, max(3, count - 2)))
    groups = []
    for position, index in enumerate(int(value) for value in order):
        item = room.objects[index]
        members = [index]
        members += [
            other
            for other, thing in enumerate(room.objects)
            if thing.support == index and thing.label == "pillow"
        ]
        middle, half = (item.low + item.high) / 2, (item.high - item.low) / 2
        centroid = item.translation + (item.rotation * middle).sum(axis=1)
        groups.append(
            Group(
                index,
                item.label,
                (position + 1) % count + 1,
                (position + shift) % count + 1,
                np.flatnonzero(np.isin(owners, members)),
                centroid,
                2 * half,
                item.rotation,
            )
        )
    return tuple(groups)
