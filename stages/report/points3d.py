"""Points and masks of a page's 3D part, packed into text that a page holds and nothing runs.

A page has one *cloud* per scan and one *mask* per query, each the base64 of a zlib stream in a
``<script type="application/octet-stream;base64">``, which browsers neither run nor load, and which
``report3d.js`` unpacks when a query is looked at. All numbers are little endian; a cloud has n
points:

- cloud: positions, n int16 x, then n y, then n z, in ``step`` metres from ``origin``, z up; then
  n x 3 uint8 colours (sRGB), n x 3 int8 normals (127 = 1; zeros where it is not known which side
  of the mesh is free). ``data-count``, ``data-step``, ``data-origin`` (three metres) and
  ``data-spacing`` (metres between neighbours) stand at the tag;
- mask: n uint8, bit k set where layer k holds the point, so at most 8 layers. Which layers there
  are is the page's choice, one list for all its queries (``Modes.layers``); the pages of
  ``report`` and ``answers_report`` have the answers' sources and, where known, the truth.

A *mode* is what the colours show: the scan alone (no layer), one layer, or two set against each
other: in both, in the first only, in the second only; or the scan twice, side by side, with two
such colourings. A page that compares runs takes a layer a run and the truth, and the modes it
wants.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from data.types import Array, Scene
from stages.report.scan_renderer import free_side

MAX_LAYERS = 8
_LEVEL = 9
_FINEST = 0.001
_SAMPLED = 2000


@dataclass(frozen=True)
class Mode:
    """What colours may show: ``first`` alone, or against ``second``; neither for the scan itself.

    ``legend`` gives (colour's key in the page's style, what it means). ``beside`` is a second pair
    of layers, for the scan drawn once more to the right; ``captions`` then name the two halves.
    """

    name: str
    label: str
    legend: tuple[tuple[str, str], ...] = ()
    first: str = ""
    second: str = ""
    beside: tuple[str, str] | None = None
    captions: tuple[str, ...] = ()

    @property
    def halves(self) -> list[tuple[str, str]]:
        """The pairs of layers that are drawn, from left to right."""
        return [(self.first, self.second), *([self.beside] if self.beside else [])]


@dataclass(frozen=True)
class Modes:
    """Layers of a page's masks in the order of their bits, its modes, and the one to begin with.

    Raises ValueError for more layers than bits, and for a mode of a layer that is not there.
    """

    layers: tuple[str, ...]
    modes: tuple[Mode, ...]
    start: str

    def __post_init__(self) -> None:
        """Check that the page's script can show all of them."""
        if len(self.layers) > MAX_LAYERS:
            raise ValueError(f"expected at most {MAX_LAYERS} layers, got {len(self.layers)}")
        pairs = [pair for mode in self.modes for pair in mode.halves]
        named = {layer for pair in pairs for layer in pair if layer}
        if not named <= set(self.layers) or self.start not in {mode.name for mode in self.modes}:
            raise ValueError("a mode of a layer that is not there, or a start that is no mode")

    def for_script(self) -> dict[str, object]:
        """The same as JSON for the page's script; layers are bit numbers, -1 for none."""
        bits = {layer: bit for bit, layer in enumerate(self.layers)}
        modes = [
            {
                "name": mode.name,
                "label": mode.label,
                "halves": [[bits.get(layer, -1) for layer in pair] for pair in mode.halves],
                "captions": list(mode.captions),
                "legend": [list(entry) for entry in mode.legend],
            }
            for mode in self.modes
        ]
        return {"modes": modes, "start": self.start}


@dataclass(frozen=True, eq=False)
class PackedCloud:
    """A scan's points as a page holds them; ``kept`` (n,) int64 are those of the scan's points."""

    scene_id: str
    kept: Array
    num_points: int
    text: str
    step: float
    origin: tuple[float, ...]
    spacing: float


def pack_cloud(scene: Scene, most: int) -> PackedCloud:
    """At most ``most`` of a scan's points, evenly spread in space."""
    total = len(scene.cloud)
    kept = thinned(scene.cloud.points, most)
    points = scene.cloud.points[kept].astype(np.float64)
    low, high = (points.min(0), points.max(0)) if len(points) else (np.zeros(3), np.zeros(3))
    origin = np.round((low + high) / 2, 3)
    step = max(_FINEST, float((high - low).max()) / 65000)
    positions = np.rint((points - origin) / step).astype("<i2")
    normals = scene.cloud.normals[kept] * free_side(scene)
    parts = (positions.T, scene.cloud.colors[kept], np.rint(normals * 127).astype(np.int8))
    text = _packed(b"".join(part.tobytes() for part in parts))
    origin_text = tuple(float(value) for value in origin)
    return PackedCloud(scene.scene_id, kept, total, text, step, origin_text, _spacing(points))


def thinned(points: Array, most: int) -> Array:
    """Sorted ids (n,) int64 of at most ``most`` points (N, 3): all, or one of each cell.

    The cells are the smallest cubes, to two hundredths and down to 1/4096 of the scan, of which no
    more than ``most`` hold points. Which point of a cell it is is left to chance, seeded, so that
    none comes off badly for its place in the file.
    """
    if len(points) <= most:
        return np.arange(len(points), dtype=np.int64)
    order = np.random.default_rng(0).permutation(len(points))
    offset = (points - points.min(axis=0))[order].astype(np.float64)
    high = float(offset.max()) * 1.01 + 1e-6
    low, best = high / 4096, np.zeros(1, np.int64)
    while high > 1.02 * low:
        side = (low * high) ** 0.5
        first = _first_of_cells(offset, side)
        if len(first) > most:
            low = side
        else:
            high, best = side, first
    return np.sort(order[best])


def _first_of_cells(offset: Array, side: float) -> Array:
    cells = (offset / side).astype(np.int64)
    counts = cells.max(axis=0) + 1
    keys = (cells[:, 0] * counts[1] + cells[:, 1]) * counts[2] + cells[:, 2]
    return np.unique(keys, return_index=True)[1]


def pack_masks(layers: Sequence[str], masks: Mapping[str, Array], cloud: PackedCloud) -> str:
    """Masks (N,) bool over all of a scan's points by layer; one that is not there is empty."""
    bits = np.zeros(len(cloud.kept), np.uint8)
    for bit, layer in enumerate(layers):
        if layer in masks:
            bits |= masks[layer][cloud.kept].astype(np.uint8) << bit
    return _packed(bits.tobytes())


def _packed(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content, _LEVEL)).decode()


def _spacing(points: Array) -> float:
    """Metres within which four in five of a sample of points have four neighbours.

    Corners of triangles that meet without sharing a vertex lie on one spot, so the nearest
    neighbour alone tells too little.
    """
    if len(points) < 3:
        return 0.05
    sample = points[:: -(-len(points) // _SAMPLED)]
    away, _ = cKDTree(points).query(sample, k=min(5, len(points)))
    return round(max(float(np.percentile(away[:, -1], 80)), 0.002), 4)
