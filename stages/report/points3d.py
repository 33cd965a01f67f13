"""Points and masks of a page's 3D view, packed into text that browsers neither run nor load.

A page has one *cloud* per scan and one *mask* per query. Each is the base64 text of a zlib stream
in a ``<script type="application/octet-stream;base64">``, which ``report3d.js`` unpacks when a
query is shown. All numbers are little endian; a cloud has n points:

- cloud: positions, n int16 x, then n y, then n z, in ``step`` metres from ``origin``, z up; then
  n x 3 uint8 colours (sRGB), n x 3 int8 normals (127 = 1; zeros where it is not known which side
  of the mesh is free). The tag holds ``data-count``, ``data-step``, ``data-origin`` (three metres)
  and ``data-spacing`` (metres between neighbours);
- mask: n uint8, bit k set where layer k holds the point, so at most 8 layers. The layers are the
  same for all queries of a page (``Modes.layers``).

A *mode* says what the colours show: the scan alone (no layer), one layer, or two layers compared
(in both, in the first only, in the second only); or the scan twice, side by side, with two such
colourings.
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
    """One colouring: layer ``first`` alone or against ``second``; neither for the scan alone.

    ``legend`` holds (key of a colour in the page's style, its meaning). ``beside`` is a second
    pair of layers, for the scan drawn again to the right; ``captions`` then name the two halves.
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
    """The layers of a page's masks in the order of their bits, its modes, and the first mode shown.

    Raises ValueError for more layers than bits, and for a mode of an unknown layer.
    """

    layers: tuple[str, ...]
    modes: tuple[Mode, ...]
    start: str

    def __post_init__(self) -> None:
        """Check that the page's script can show all modes."""
        if len(self.layers) > MAX_LAYERS:
            raise ValueError(f"expected at most {MAX_LAYERS} layers, got {len(self.layers)}")
        pairs = [pair for mode in self.modes for pair in mode.halves]
        named = {layer for pair in pairs for layer in pair if layer}
        if not named <= set(self.layers) or self.start not in {mode.name for mode in self.modes}:
            raise ValueError("expected modes of known layers, and a first mode among them")

    def for_script(self) -> dict[str, object]:
        """Return the modes as JSON for the page's script; layers are bit numbers, -1 for none."""
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
    """The points of a scan as a page holds them.

    ``kept`` (n,) int64 are the ids of the points, of ``num_points`` points of the scan; ``text``
    is the packed cloud. ``step``, ``origin`` and ``spacing`` are in metres.
    """

    scene_id: str
    kept: Array
    num_points: int
    text: str
    step: float
    origin: tuple[float, ...]
    spacing: float


def pack_cloud(scene: Scene, most: int) -> PackedCloud:
    """Pack at most ``most`` points of a scan, evenly spread in space."""
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
    """Return sorted ids (n,) int64 of at most ``most`` points (N, 3): all, or one of each cell.

    The cells are the smallest cubes of which at most ``most`` hold points, to 2 % and down to
    1/4096 of the scan. The point of a cell is drawn at random with a fixed seed, so that the order
    of the file has no influence.
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
    """Pack masks (N,) bool over a scan's points by layer; a missing layer is empty."""
    bits = np.zeros(len(cloud.kept), np.uint8)
    for bit, layer in enumerate(layers):
        if layer in masks:
            bits |= masks[layer][cloud.kept].astype(np.uint8) << bit
    return _packed(bits.tobytes())


def _packed(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content, _LEVEL)).decode()


def _spacing(points: Array) -> float:
    """Return the metres within which 80 % of a sample of points have four neighbours.

    Triangles may meet without sharing a vertex, so the nearest neighbour is often at distance 0.
    """
    if len(points) < 3:
        return 0.05
    sample = points[:: -(-len(points) // _SAMPLED)]
    away, _ = cKDTree(points).query(sample, k=min(5, len(points)))
    return round(max(float(np.percentile(away[:, -1], 80)), 0.002), 4)
