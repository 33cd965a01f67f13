"""Stages that show a scan to look at: its geometry, its links and its teacher's answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from data.artifacts.links import Links, ViewLinks
from data.artifacts.soft_masks import PseudoLabels
from data.artifacts.teacher import FAILED, MASK, TeacherCache
from data.errors import DataError
from data.geometry.cameras import transform
from data.geometry.raycast import Raycaster
from data.types import Array, Camera, Prompt, Scene, View
from stages.report.pictures import (
    BLUE,
    INK,
    ORANGE,
    SheetCell,
    cell_width,
    contact_sheet,
    font,
    hatched,
    over,
    pale,
    resized,
    scale,
    viridis,
)
from stages.report.scan_renderer import below_ceiling, extent
from stages.scene.view_images import mask_of, read_image

ROWS = 6
"""Views on a contact_sheet."""
_ROUNDING = 0.0022
"""Metres: what rounding three depths to millimetres can do to their second difference."""
_CREASE = 0.7
"""Tangent between two planes from which on their edge is drawn, about 35 degrees."""
_GOLDEN = 0.61803398875
_WEDGE = 0.5
"""Metres that a camera's field of view reaches in the picture from above."""


def run_scene(scene: Scene, chosen: Sequence[int]) -> Iterator[tuple[str, Image.Image]]:
    """Sheets by name: ``above``, then ``views_1`` and on, of the views of those indices.

    Raises DataError for a picture that cannot be read, and for a scan without a surface.
    """
    yield "above", _above_sheet(scene, chosen)
    span = depth_span([scene.depths[index] for index in chosen])
    pages = [chosen[start : start + ROWS] for start in range(0, len(chosen), ROWS)]
    for number, page in enumerate(pages, 1):
        cells = [one for index in page for one in _scene_view_cells(scene, index, span)]
        empty = hatched(64, 64)
        key = scale(*span, "m", "Depth along the viewing direction", "no surface", empty)
        heading = f"Scene {scene.scene_id}: depth over pictures"
        about = (
            "Edges of depth, jumps and creases, must lie on the edges of the picture. "
            f"Page {number} of {len(pages)}, {len(chosen)} of {len(scene.views)} views."
        )
        yield f"views_{number}", contact_sheet(heading, about, cells, 3, key)


def depth_span(depths: Sequence[Array]) -> tuple[float, float]:
    """Metres between which nearly all known depths lie, for one scale for all."""
    known = np.concatenate([depth[depth > 0] for depth in depths] or [np.zeros(0)])
    if not len(known):
        return 0.0, 1.0
    low, high = np.percentile(known, [1, 99])
    return float(low), float(max(high, low + 0.1))


def _scene_view_cells(scene: Scene, index: int, span: tuple[float, float]) -> list[SheetCell]:
    view, depth = scene.views[index], scene.depths[index]
    image, width = read_image(view), cell_width(3)
    edges = over(image, thick(depth_edges(depth, view.camera)), ORANGE, ORANGE)
    known = depth[depth > 0]
    least, most = (known.min(), known.max()) if len(known) else (0, 0)
    told = f"{least:.2f} to {most:.2f} m; no surface at {np.mean(depth == 0):.1%} of pixels"
    size = f"{view.camera.width} x {view.camera.height} pixels, {view.camera.model}"
    return [
        SheetCell(f"{index + 1}. {view.view_id}", resized(image, width), (size,)),
        SheetCell("depth", resized(depth_picture(depth, span), width), (told,)),
        SheetCell("edges of depth over the picture", resized(edges, width)),
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
    cells = [
        SheetCell(
            "colours and cameras",
            marked,
            (f"{len(scene.views)} cameras, each with its field of view; shown: {shown}",),
            4,
        ),
        SheetCell(
            "superpoints", part_picture(parts), (f"{count} superpoints, median {middle} points",)
        ),
    ]
    size = np.ptp(scene.cloud.points, axis=0)
    about = (
        f"{len(scene.cloud)} points, {len(scene.triangles)} triangles; "
        f"{size[0]:.2f} x {size[1]:.2f} x {size[2]:.2f} m, seen from above without its ceiling"
    )
    return contact_sheet(f"Scene {scene.scene_id} from above", about, cells, 2)


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


"""Views on a contact_sheet."""
_LARGEST_DOT = 3
_CONTRAST = 100.0
"""Levels of difference at the bright end of the scale."""


@dataclass(frozen=True)
class Agreement:
    """How one view's linked points fit its picture.

    ``covered`` is the share of pixels that hold a point. ``difference`` is the mean absolute
    difference of a point's colour from that of its pixel, in levels of 0 to 255, all channels
    taken together, and ``chance`` the same where points are dealt to those pixels at random:
    what a picture of the same colours would give whose camera is anywhere. Both are NaN where
    the view sees no point.
    """

    view_id: str
    points: int
    covered: float
    difference: float
    chance: float


def agreement(colors: Array, image: Array, links: ViewLinks) -> Agreement:
    """Measure one view: ``colors`` (N, 3) uint8 of all points, ``image`` (H, W, 3) uint8."""
    if not len(links.point_ids):
        return Agreement(links.view_id, 0, 0.0, float("nan"), float("nan"))
    column, row = np.floor(links.uv).astype(np.int64).T
    own, seen = colors[links.point_ids].astype(np.int64), image[row, column].astype(np.int64)
    dealt = np.random.default_rng(0).permutation(own)
    pixels = len(np.unique(row * image.shape[1] + column))
    return Agreement(
        links.view_id,
        len(links.point_ids),
        pixels / (image.shape[0] * image.shape[1]),
        float(np.abs(own - seen).mean()),
        float(np.abs(dealt - seen).mean()),
    )


def run_links(
    scene: Scene, links: Links, chosen: Sequence[int]
) -> Iterator[tuple[str, Image.Image, list[Agreement]]]:
    """Sheets ``links_1`` and on, of the views of those indices, with what was measured of each.

    Raises DataError for a picture that cannot be read.
    """
    pages = [chosen[start : start + ROWS] for start in range(0, len(chosen), ROWS)]
    for number, page in enumerate(pages, 1):
        cells: list[SheetCell] = []
        measured = []
        for index in page:
            made, figures = _links_view_cells(scene, links.view(index), index)
            cells += made
            measured.append(figures)
        told = "Difference of colours (depth: dark is near)"
        key = scale(0, _CONTRAST, "levels", told, "no point", pale(64, 64))
        heading = f"Scene {scene.scene_id}: points over pictures"
        about = (
            "Where camera and scan fit, the third picture looks like the first. Difference: of a "
            "point's colour from its pixel's, mean over points and channels, of 255 levels; "
            f"chance: the same with points dealt at random. Page {number} of {len(pages)}."
        )
        yield f"links_{number}", contact_sheet(heading, about, cells, 4, key), measured


def _links_view_cells(
    scene: Scene, links: ViewLinks, index: int
) -> tuple[list[SheetCell], Agreement]:
    view, width = scene.views[index], cell_width(4)
    image = read_image(view)
    told = agreement(scene.cloud.colors, image, links)
    points = scene.cloud.points[links.point_ids].astype(np.float64)
    depth = transform(view.world_to_camera, points)[:, 2]
    small = resized(image, width)
    uv = links.uv * (width / view.camera.width)
    colors = scene.cloud.colors[links.point_ids]
    radius = dot_radius(small.shape[0] * width, len(points))
    over, _ = dots(small, uv, viridis(depth, *_span(depth)), depth, max(0, radius - 1))
    empty = pale(*small.shape[:2])
    own, held = dots(empty, uv, colors, depth, radius)
    gaps = np.abs(own.astype(np.int64) - small).mean(axis=2)
    apart = np.where(held[..., None], viridis(gaps, 0, _CONTRAST), empty).astype(np.uint8)
    near, far = _span(depth)
    cells = [
        SheetCell(f"{index + 1}. {view.view_id}", small),
        SheetCell("points by depth", over, (f"{told.points} points, {near:.2f} to {far:.2f} m",)),
        SheetCell("points in their own colours", own, (f"on {told.covered:.1%} of pixels",)),
        SheetCell(
            "difference", apart, (f"{told.difference:.1f} levels; chance {told.chance:.1f}",)
        ),
    ]
    return cells, told


def _span(depth: Array) -> tuple[float, float]:
    return (float(depth.min()), float(depth.max())) if len(depth) else (0.0, 0.0)


def dot_radius(pixels: int, points: int) -> int:
    """Pixels to draw around each of so many points, so that surfaces close without blurring."""
    return min(_LARGEST_DOT, int(np.sqrt(pixels / max(points, 1)) / 2))


def dots(
    picture: Array, uv: Array, colors: Array, depth: Array, radius: int
) -> tuple[Array, Array]:
    """``picture`` (h, w, 3) uint8 with points on it, and (h, w) bool, where one was drawn.

    ``uv`` (L, 2) are their pixels (that of a point is ``floor(uv)``), ``colors`` (L, 3) uint8,
    ``depth`` (L,) metres: the nearer is in front. Each is a square that reaches ``radius``
    pixels from its own.
    """
    drawn, (height, width) = picture.copy(), picture.shape[:2]
    far_first = np.argsort(-depth, kind="stable")
    column, row = np.floor(uv[far_first]).astype(np.int64).T
    nearest = np.full((height, width), -1, np.int64)
    reach = range(-radius, radius + 1)
    for dv in reach:
        for du in reach:
            v, u = row + dv, column + du
            inside = (v >= 0) & (v < height) & (u >= 0) & (u < width)
            np.maximum.at(nearest, (v[inside], u[inside]), np.flatnonzero(inside))
    held = nearest >= 0
    if len(colors):
        drawn[held] = colors[far_first][nearest[held]]
    return drawn, held


_COLUMNS = 4


def run_teacher(
    scene: Scene,
    cache: TeacherCache,
    prompts: Sequence[Prompt],
    labels: PseudoLabels | None,
    views: Sequence[int] | int,
) -> Iterator[tuple[Prompt, Image.Image]]:
    """A contact_sheet for each of ``prompts``, of the views of those indices or of so many.

    Of so many: spread evenly from the view on which the teacher is surest to the one where it
    is least. With ``labels`` each view tells its weight, or why it was dropped.

    Raises ValueError for a prompt that the cache does not hold, DataError for a picture that
    cannot be read.
    """
    for prompt in prompts:
        column = cache.prompt_ids.index(prompt.prompt_id)
        chosen = spread_views(cache, column, views) if isinstance(views, int) else views
        cells = [_teacher_cell(scene, cache, labels, column, index) for index in chosen]
        said = int(np.count_nonzero(cache.status[:, column] == MASK))
        order = ", from the surest down" if isinstance(views, int) else ""
        about = (
            f"{prompt.prompt_id}, {prompt.task or 'no task'}. [SEG] on {said} of "
            f"{len(cache.view_ids)} views; {len(chosen)} shown{order}. Orange: the mask; blue: "
            "the mask that an answer without [SEG] held back."
        )
        yield prompt, contact_sheet(prompt.text, about, cells, _COLUMNS)


def spread_views(cache: TeacherCache, column: int, count: int) -> list[int]:
    """At most ``count`` views of one query, evenly from the surest answer to the least sure.

    Sure is presence times predicted IoU, and an answer with [SEG] before one without.
    """
    sure = cache.presence[:, column] * cache.predicted_iou[:, column]
    ranked = np.lexsort((np.arange(len(sure)), -sure, cache.status[:, column] != MASK))
    picks = np.linspace(0, len(ranked) - 1, min(count, len(ranked)))
    return [int(index) for index in ranked[np.rint(picks).astype(int)]]


def _teacher_cell(
    scene: Scene, cache: TeacherCache, labels: PseudoLabels | None, column: int, index: int
) -> SheetCell:
    picture = resized(read_image(scene.views[index]), cell_width(_COLUMNS))
    status = int(cache.status[index, column])
    if cache.drawn[index, column]:
        color = ORANGE if status == MASK else BLUE
        mask = mask_of(cache, index, column, (picture.shape[0], picture.shape[1]))
        picture = over(picture, mask, color)
    figures = f"presence {cache.presence[index, column]:.2f}"
    if cache.drawn[index, column]:
        figures += f", predicted IoU {cache.predicted_iou[index, column]:.2f}"
    notes = [f"{_status(status)}; {figures}", *_weight(cache, labels, column, index)]
    answer = cache.answers[index][column]
    notes += [f"failed: {answer}" if status == FAILED else f'"{answer}"']
    return SheetCell(f"{index + 1}. {scene.views[index].view_id}", picture, tuple(notes), 3)


def _status(status: int) -> str:
    if status == MASK:
        return "[SEG]"
    return "failed" if status == FAILED else "none (no [SEG])"


def _weight(cache: TeacherCache, labels: PseudoLabels | None, column: int, index: int) -> list[str]:
    """The view's part in the lifted label, where there is one of this query."""
    prompt_id = cache.prompt_ids[column]
    if labels is None or prompt_id not in labels.prompt_ids:
        return []
    row = labels.prompt_ids.index(prompt_id)
    reason = labels.drop_reasons[row][index]
    if reason:
        return [f"dropped: {reason}"]
    return [f"gate weight {labels.view_weights[row, index]:.3f}"]
