"""What is true of the objects of a scanned room: the ground that queries stand on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from data.rooms.room import Room
from data.rooms.scan import RoomScan
from data.types import Array

_MAIN_SHARE = 0.6
_MINOR_SHARE = 0.12


@dataclass(frozen=True, eq=False)
class Fact:
    """One object as annotated.

    ``color`` is its one clear colour or ""; ``all_colors`` every colour it might be called;
    ``volume`` m3 of its box, ``bottom`` and ``top`` its lowest and highest z above
    the room's floor (m); ``host`` is the object id of what it
    stands on (0 none); ``views`` (number of views,) int pixels it covers in each.
    """

    object_id: int
    label: str
    color: str
    all_colors: frozenset[str]
    points: Array
    volume: float
    bottom: float
    top: float
    host: int
    views: Array


def color_name(rgb: Array) -> str:
    """Plain name of a colour (3,) in 0..255; "" where people would not agree on one."""
    r, g, b = (float(v) / 255 for v in rgb)
    value, least = max(r, g, b), min(r, g, b)
    chroma = value - least
    if value < 0.19:
        return "black"
    saturation = chroma / value
    if saturation < 0.13:
        return "white" if value > 0.7 else "grey" if 0.27 < value < 0.6 else ""
    if value == r:
        hue = 60 * ((g - b) / chroma) % 360
    elif value == g:
        hue = 60 * ((b - r) / chroma) + 120
    else:
        hue = 60 * ((r - g) / chroma) + 240
    if 322 < hue < 350 and 0.28 < saturation < 0.6 and value > 0.5:
        return "pink"
    if saturation < 0.42:
        return ""
    if 17 < hue < 36 and value < 0.46:
        return "brown"
    if value < 0.28:
        return ""
    bands = (
        ("red", 351, 371),
        ("orange", 24, 36),
        ("yellow", 44, 62),
        ("green", 95, 165),
        ("blue", 208, 240),
        ("purple", 262, 300),
    )
    for name, low, high in bands:
        if low <= hue <= high or low <= hue + 360 <= high:
            return name if name != "orange" or value > 0.58 else ""
    return ""


def gather_facts(room: Room, scan: RoomScan, pixels: Sequence[Array]) -> list[Fact]:
    """Facts of all objects in file order; ``pixels[v][k]``: size of object k in view v."""
    object_id = {group.index: group.object_id for group in scan.groups}
    counts = np.stack(list(pixels))
    floor = float(room.from_room[2, 3])
    facts = []
    for group in scan.groups:
        item = room.objects[group.index]
        if len(group.vertex_ids) == 0:
            continue
        own = scan.owners == group.index
        main, every = nominal_colors(room, group.index)
        seen = color_name(np.median(scan.colors[own], axis=0))
        points = scan.vertices[group.vertex_ids].astype(np.float64)
        facts.append(
            Fact(
                group.object_id,
                group.label,
                main if main == seen else "",
                frozenset({*every, seen} - {""}),
                points,
                float(np.prod(group.lengths)),
                float(points[:, 2].min()) - floor,
                float(points[:, 2].max()) - floor,
                object_id.get(item.support, 0),
                counts[:, group.index],
            )
        )
    return facts


def nominal_colors(room: Room, index: int) -> tuple[str, set[str]]:
    """The colour of most of an object's surface ("" if none), and all that catch the eye."""
    mesh = room.mesh
    textures = mesh.vertex_textures[mesh.vertex_objects == index]
    share: dict[str, float] = {}
    for texture, count in zip(*np.unique(textures, return_counts=True)):
        name = room.textures.textures[texture].color
        share[name] = share.get(name, 0.0) + count / len(textures)
    if not share:
        return "", set()
    main = max(sorted(share), key=lambda name: share[name])
    every = {name for name, part in share.items() if part > _MINOR_SHARE}
    return (main if share[main] >= _MAIN_SHARE else ""), every


class Distances:
    """Least distances between the annotated points of objects, their trees built once."""

    def __init__(self) -> None:
        self._trees: dict[int, cKDTree] = {}

    def between(self, first: Fact, second: Fact) -> float:
        """Metres from the nearest point of one to the nearest point of the other."""
        few, many = sorted((first, second), key=lambda fact: len(fact.points))
        if many.object_id not in self._trees:
            self._trees[many.object_id] = cKDTree(many.points)
        tree = self._trees[many.object_id]
        bound = float(tree.query(few.points[::40])[0].min())
        return min(bound, float(tree.query(few.points, distance_upper_bound=bound)[0].min()))
