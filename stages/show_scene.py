"""Stage: a prepared scan to look at, its depth over its pictures, its superpoints and cameras."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw

from data.errors import DataError
from data.raycast import Raycaster
from data.types import Array, Camera, Scene, View
from stages.dollhouse import below_ceiling, extent
from stages.lettering import font
from stages.panels import (
    BLUE,
    INK,
    ORANGE,
    Panel,
    cell_width,
    hatched,
    over,
    resized,
    scale,
    sheet,
    viridis,
)
from stages.view_images import read_image

ROWS = 6
"""Views on a sheet."""
_ROUNDING = 0.0022
"""Metres: what rounding three depths to millimetres can do to their second difference."""
_CREASE = 0.7
"""Tangent between two planes from which on their edge is drawn, about 35 degrees."""
_GOLDEN = 0.61803398875
_WEDGE = 0.5
"""Metres that a camera's field of view reaches in the picture from above."""


def run(scene: Scene, chosen: Sequence[int]) -> Iterator[tuple[str, Image.Image]]:
    """Sheets by name: ``above``, then ``views_1`` and on, of the views of those indices.

    Raises DataError for a picture that cannot be read, and for a scan without a surface.
    """
    yield "above", _above_sheet(scene, chosen)
    span = depth_span([scene.depths[index] for index in chosen])
    pages = [chosen[start : start + ROWS] for start in range(0, len(chosen), ROWS)]
    for number, page in enumerate(pages, 1):
        panels = [one for index in page for one in _view_panels(scene, index, span)]
        empty = hatched(64, 64)
        key = scale(*span, "m", "Depth along the viewing direction", "no surface", empty)
        heading = f"Scene {scene.scene_id}: depth over pictures"
        about = (
            "Edges of depth, jumps and creases, must lie on the edges of the picture. "
            f"Page {number} of {len(pages)}, {len(chosen)} of {len(scene.views)} views."
        )
        yield f"views_{number}", sheet(heading, about, panels, 3, key)


def depth_span(depths: Sequence[Array]) -> tuple[float, float]:
    """Metres between which nearly all known depths lie, for one scale for all."""
    known = np.concatenate([depth[depth > 0] for depth in depths] or [np.zeros(0)])
    if not len(known):
        return 0.0, 1.0
    low, high = np.percentile(known, [1, 99])
    return float(low), float(max(high, low + 0.1))


def _view_panels(scene: Scene, index: int, span: tuple[float, float]) -> list[Panel]:
    view, depth = scene.views[index], scene.depths[index]
    image, width = read_image(view), cell_width(3)
    edges = over(image, thick(depth_edges(depth, view.camera)), ORANGE, ORANGE)
    known = depth[depth > 0]
    least, most = (known.min(), known.max()) if len(known) else (0, 0)
    told = f"{least:.2f} to {most:.2f} m; no surface at {np.mean(depth == 0):.1%} of pixels"
    size = f"{view.camera.width} x {view.camera.height} pixels, {view.camera.model}"
    return [
        Panel(f"{index + 1}. {view.view_id}", resized(image, width), (size,)),
        Panel("depth", resized(depth_picture(depth, span), width), (told,)),
        Panel("edges of depth over the picture", resized(edges, width)),
    ]


def depth_picture(depth: Array, span: tuple[float, float]) -> Array:
    """(H, W, 3) uint8 of depth (H, W) metres on the scale of ``span``; hatched where it is 0."""
    known = (depth > 0)[..., None]
    return np.where(known, viridis(depth, *span), hatched(*depth.shape)).astype(np.uint8)


def depth_edges(depth: Array, camera: Camera) -> Array:
    """(H, W) bool: pixels at a jump or a crease of depth (H, W) metres, or beside a hole.

    Over a plane 1 / depth is linear in the pixels, so that its second difference is 0 however
    steeply the plane is seen; where two planes meet it is the change of their slopes.
    """
    with np.errstate(divide="ignore"):
        inverse = np.where(depth > 0, 1 / depth.astype(np.float64), 0)
    found = np.zeros(depth.shape, bool)
    for axis, focal in ((0, camera.K[1, 1]), (1, camera.K[0, 0])):
        bend = np.abs(np.diff(inverse, n=2, axis=axis))
        inner = [slice(None), slice(None)]
        inner[axis] = slice(1, -1)
        here = depth[tuple(inner)].astype(np.float64)
        allowed = np.maximum(_CREASE / focal, _ROUNDING / np.maximum(here, 0.01))
        found[tuple(inner)] |= (bend * here > allowed) & (here > 0)
    return found


def thick(mask: Array) -> Array:
    """(H, W) bool: the mask and the pixel right of and below each, seen when made smaller."""
    wide = mask.copy()
    wide[:, 1:] |= mask[:, :-1]
    wide[1:] |= wide[:-1].copy()
    return wide


def _above_sheet(scene: Scene, chosen: Sequence[int]) -> Image.Image:
    width = cell_width(2)
    vertex, frame = seen_from_above(scene, width)
    inside = vertex >= 0
    colors = np.where(inside[..., None], scene.cloud.colors[vertex], 255).astype(np.uint8)
    parts = np.where(inside, scene.superpoint_ids[vertex], -1)
    marked = with_cameras(colors, scene.views, {i: str(i + 1) for i in chosen}, frame)
    count = len(np.unique(scene.superpoint_ids))
    shown = ", ".join(f"{i + 1}. {scene.views[i].view_id}" for i in chosen)
    sizes = np.bincount(scene.superpoint_ids)
    middle = f"{np.median(sizes[sizes > 0]):.0f}" if len(sizes) else "0"
    panels = [
        Panel(
            "colours and cameras",
            marked,
            (f"{len(scene.views)} cameras, each with its field of view; shown: {shown}",),
            4,
        ),
        Panel(
            "superpoints", part_picture(parts), (f"{count} superpoints, median {middle} points",)
        ),
    ]
    size = np.ptp(scene.cloud.points, axis=0)
    about = (
        f"{len(scene.cloud)} points, {len(scene.triangles)} triangles; "
        f"{size[0]:.2f} x {size[1]:.2f} x {size[2]:.2f} m, seen from above without its ceiling"
    )
    return sheet(f"Scene {scene.scene_id} from above", about, panels, 2)


def seen_from_above(scene: Scene, width: int) -> tuple[Array, tuple[float, float, float]]:
    """Vertex ids (h, width) int64 under straight rays, -1 for none, and where pixels lie.

    The frame is (x of the left edge, y of the upper edge, metres a pixel); x grows to the right
    and y upwards. Raises DataError for a scan without a triangle.
    """
    if not len(scene.triangles):
        found = "none"
        remedy = "Give the reader a mesh, then run PrepareScene again."
        raise DataError(f"scene {scene.scene_id}", "triangles to draw", found, remedy)
    low, high = extent(scene)
    pad = 0.03 * float(max(high[:2] - low[:2]))
    left, top = low[0] - pad, high[1] + pad
    step = (high[0] + pad - left) / width
    height = max(1, int(np.ceil((top - low[1] + pad) / step)))
    v, u = np.indices((height, width))
    spots = np.stack([left + (u + 0.5) * step, top - (v + 0.5) * step], axis=-1).reshape(-1, 2)
    origins = np.column_stack([spots, np.full(len(spots), high[2] + 1)]).astype(np.float32)
    down = np.broadcast_to(np.array([0, 0, -1], np.float32), origins.shape)
    triangles = scene.triangles[below_ceiling(scene, (low, high))]
    vertex = np.full(len(spots), -1, np.int64)
    if len(triangles):
        distance, hit = Raycaster(scene.cloud.points, triangles).cast(origins, down)
        rows = np.flatnonzero(hit >= 0)
        ring = triangles[hit[rows]]
        at = origins[rows] + down[rows] * distance[rows, None]
        gaps = np.linalg.norm(scene.cloud.points[ring] - at[:, None], axis=2)
        vertex[rows] = ring[np.arange(len(ring)), gaps.argmin(axis=1)]
    return vertex.reshape(height, width), (float(left), float(top), float(step))


def part_picture(parts: Array) -> Array:
    """(h, w, 3) uint8: each id of ``parts`` (h, w) in a colour of its own, dark borders between.

    -1 is white. Hues of following ids lie a golden section apart, so neighbours differ.
    """
    import cv2  # Takes long to import; planning a run imports the stages.

    hue = np.rint(parts * _GOLDEN % 1 * 179)
    strong = np.where(parts % 2 == 0, 110, 190)
    bright = np.where(parts % 3 == 0, 190, 245)
    colors = cv2.cvtColor(np.stack([hue, strong, bright], -1).astype(np.uint8), cv2.COLOR_HSV2RGB)
    border = np.zeros(parts.shape, bool)
    border[:, 1:] |= parts[:, 1:] != parts[:, :-1]
    border[1:] |= parts[1:] != parts[:-1]
    colors[border] = (60, 60, 60)
    colors[parts < 0] = 255
    return np.asarray(colors)


def with_cameras(
    picture: Array, views: Sequence[View], named: dict[int, str], frame: tuple[float, float, float]
) -> Array:
    """Cameras as dots with the wedge they see; those of ``named`` in orange, with their number."""
    canvas = Image.fromarray(picture)
    pen = ImageDraw.Draw(canvas, "RGBA")
    for index in sorted(range(len(views)), key=lambda i: i in named):
        view, color = views[index], ORANGE if index in named else BLUE
        x, y = _pixel(view.camera_center, frame)
        ends = [_pixel(end, frame) for end in _wedge(view)]
        pen.polygon([(x, y), *ends], fill=(*color, 70), outline=(*color, 255))
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=(*color, 255), outline=(*INK, 255))
        if index in named:
            pen.text(
                (x + 6, y - 6),
                named[index],
                fill=INK,
                font=font(14),
                stroke_width=2,
                stroke_fill="white",
                anchor="ls",
            )
    return np.asarray(canvas)


def _pixel(point: Array, frame: tuple[float, float, float]) -> tuple[float, float]:
    left, top, step = frame
    return float((point[0] - left) / step), float((top - point[1]) / step)


def _wedge(view: View) -> list[Array]:
    """Both ends of the field of view, ``_WEDGE`` metres before the camera, in the world."""
    half = np.arctan(view.camera.width / 2 / view.camera.K[0, 0])
    rotation = view.world_to_camera[:3, :3]
    sides = np.array([[-np.sin(half), 0, np.cos(half)], [np.sin(half), 0, np.cos(half)]])
    return [view.camera_center + _WEDGE * (rotation.T @ side) for side in sides]
