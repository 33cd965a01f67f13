"""Axis-aligned boxes of masks, the parts of a mask, and scores of boxes: their only definition.

A box is (2, 3) float64, its lowest and its highest corner in metres. The IoU of two boxes is the
volume both have over the volume either has, without any epsilon; boxes without volume, a plane's
or none's, share nothing with any other and have IoU 0.

The parts of a mask are what hangs together in it. Space is cut into cells of ``CELL``; points are
of one part where their cells touch, be it at a corner, or where an edge of the mesh joins them.
So what is at most 3 cm apart is always one part, and what no edge joins and is 6 cm apart or more
never is. Parts with less than a tenth of the points of the mask's largest part are dropped.
Nothing of this looks at truth, and a mask with any point has at least one part.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from data.types import Array
from data.voxels import Voxels, voxelise
from stages.metrics import THRESHOLDS

CELL = 0.03
"""Edge of the cells that tell what hangs together, metres."""
SMALL_PART = 10
"""Parts with fewer than one ``SMALL_PART``-th of the largest part's points are dropped."""


@dataclass(frozen=True, eq=False)
class BoxScan:
    """What boxes of a scan's masks are made from.

    ``points`` (N, 3) floating, metres, in the frame whose axes boxes follow; ``triangles``
    (F, 3) integers index them. ``is_aligned`` tells that the data set's own axis alignment was
    applied to the points.
    """

    points: Array
    triangles: Array
    is_aligned: bool = False

    @classmethod
    def make(cls, points: Array, triangles: Array, alignment: Array | None = None) -> BoxScan:
        """A scan moved by ``alignment`` (4, 4), which maps its frame to that of the boxes."""
        if alignment is None:
            return cls(points, triangles)
        moved = points.astype(np.float64) @ alignment[:3, :3].T + alignment[:3, 3]
        return cls(moved, triangles, is_aligned=True)

    @cached_property
    def cells(self) -> Voxels:
        """The occupied cells, and each point's."""
        return voxelise(self.points, CELL)

    @cached_property
    def touching(self) -> Array:
        """(P, 2) pairs of occupied cells that touch, each once."""
        tree = cKDTree(self.cells.grid_coords)
        return np.asarray(tree.query_pairs(1, p=np.inf, output_type="ndarray")).reshape(-1, 2)

    @cached_property
    def edges(self) -> Array:
        """(3F, 2) ends of the triangles' edges, points."""
        corners = self.triangles
        return np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]])


def box_of(points: Array) -> Array:
    """(2, 3) float64: lowest and highest corner of points (n, 3); an empty box of none."""
    if not len(points):
        return np.stack([np.full(3, np.inf), np.full(3, -np.inf)])
    return np.stack([points.min(axis=0), points.max(axis=0)]).astype(np.float64)


def centre_and_size(
    points: Array,
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Centre and sides of the box of points (n, 3), metres to the millimetre; None of none."""
    if len(points) == 0:
        return None, None
    low, high = box_of(points)
    centre, size = np.round((low + high) / 2, 3), np.round(high - low, 3)
    return tuple(centre.tolist()), tuple(size.tolist())


def box_ious(first: Array, second: Array) -> Array:
    """(A, B) float64 IoU of every box of (A, 2, 3) with every one of (B, 2, 3)."""
    low = np.maximum(first[:, None, 0], second[None, :, 0])
    high = np.minimum(first[:, None, 1], second[None, :, 1])
    common = np.prod(np.maximum(high - low, 0), axis=2)
    union = _volumes(first)[:, None] + _volumes(second)[None, :] - common
    return np.asarray(np.where(common > 0, common / np.where(union > 0, union, 1), 0.0))


def _volumes(boxes: Array) -> Array:
    return np.asarray(np.prod(np.maximum(boxes[:, 1] - boxes[:, 0], 0), axis=1))


def part_boxes(scan: BoxScan, mask: Array) -> Array:
    """(B, 2, 3) float64: boxes of a mask's parts, in the order of their cells; mask (N,) bool."""
    ids = np.flatnonzero(mask)
    if not len(ids):
        return np.zeros((0, 2, 3))
    part = _parts(scan, mask)[scan.cells.point_to_voxel[ids]]
    _, part, sizes = np.unique(part, return_inverse=True, return_counts=True)
    order = np.argsort(part, kind="stable")
    points, starts = scan.points[ids[order]], np.cumsum(sizes) - sizes
    low, high = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
    boxes = np.stack([low, high], axis=1).astype(np.float64)
    return np.asarray(boxes[SMALL_PART * sizes >= sizes.max()])


def _parts(scan: BoxScan, mask: Array) -> Array:
    """(cells,) number of the part each cell is of; cells without a point of the mask: any."""
    cell_of = scan.cells.point_to_voxel
    occupied = np.zeros(len(scan.cells.grid_coords), bool)
    occupied[cell_of[mask]] = True
    near = scan.touching[occupied[scan.touching].all(axis=1)]
    joined = cell_of[scan.edges[mask[scan.edges].all(axis=1)]]
    here, there = np.concatenate([near, joined]).T
    size = (len(occupied), len(occupied))
    graph = coo_matrix((np.ones(len(here), bool), (here, there)), shape=size)
    return np.asarray(connected_components(graph, directed=False)[1])


def f1_scores(predicted: Array, true: Array) -> dict[str, float]:
    """F1 of one query's boxes (P, 2, 3) and (G, 2, 3) at each threshold, by its name.

    Boxes are paired so that the sum of their IoU is largest (Hungarian method); pairs with
    IoU >= k are hits, and F1 is 2 hits / (P + G). Without true boxes F1 is 1 where nothing is
    predicted and else 0.
    """
    names = {name.replace("acc", "f1_"): float(k) for name, k in THRESHOLDS.items()}
    if not len(true):
        return dict.fromkeys(names, float(not len(predicted)))
    ious = box_ious(predicted, true)
    paired = ious[linear_sum_assignment(ious, maximize=True)]
    boxes = len(predicted) + len(true)
    return {name: 2 * int((paired >= k).sum()) / boxes for name, k in names.items()}
