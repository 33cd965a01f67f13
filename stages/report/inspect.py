"""Stages that draw contact sheets of a scan: its geometry, its links, its teacher's answers.

``run_scene`` shows points, superpoints, cameras and depth; ``run_links`` compares linked points
with the images; ``run_teacher`` shows the teacher's masks and answers on views.
"""

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
"""Views on a sheet."""
_ROUNDING = 0.0022
"""Metres by which rounding depths to millimetres may change their second difference."""
_CREASE = 0.7
"""Tangent of the angle between two planes from which their edge is drawn, about 35 degrees."""
_GOLDEN = 0.61803398875
_WEDGE = 0.5
"""Length of a camera's field of view in the picture from above, metres."""


def run_scene(scene: Scene, chosen: Sequence[int]) -> Iterator[tuple[str, Image.Image]]:
    """Yield sheets by name: ``above``, then ``views_1``, ``views_2``, ... of the ``chosen`` views.

    ``chosen`` holds indices of views. Raises DataError for an image that cannot be read and for a
    scan without a surface.
    """
    yield "above", _above_sheet(scene, chosen)
    span = depth_span([scene.depths[index] for index in chosen])
    pages = [chosen[start : start + ROWS] for start in range(0, len(chosen), ROWS)]
    for number, page in enumerate(pages, 1):
        cells = [cell for index in page for cell in _scene_view_cells(scene, index, span)]
        empty = hatched(64, 64)
        key = scale(*span, "m", "Depth along the viewing direction", "no surface", empty)
        heading = f"Scene {scene.scene_id}: depth over pictures"
        about = (
            "Edges of depth, jumps and creases, must lie on the edges of the picture. "
            f"Page {number} of {len(pages)}, {len(chosen)} of {len(scene.views)} views."
        )
        yield f"views_{number}", contact_sheet(heading, about, cells, 3, key)


def depth_span(depths: Sequence[Array]) -> tuple[float, float]:
    """Return the 1st and 99th percentile of all depths, metres: one scale for all pictures."""
    valid = np.concatenate([depth[depth > 0] for depth in depths] or [np.zeros(0)])
    if not len(valid):
        return 0.0, 1.0
    low, high = np.percentile(valid, [1, 99])
    return float(low), float(max(high, low + 0.1))


def _scene_view_cells(scene: Scene, index: int, span: tuple[float, float]) -> list[SheetCell]:
    view, depth = scene.views[index], scene.depths[index]
    image, width = read_image(view), cell_width(3)
    edges = over(image, thick(depth_edges(depth, view.camera)), ORANGE, ORANGE)
    valid = depth[depth > 0]
    least, most = (valid.min(), valid.max()) if len(valid) else (0, 0)
    caption = f"{least:.2f} to {most:.2f} m; no surface at {np.mean(depth == 0):.1%} of pixels"
    size = f"{view.camera.width} x {view.camera.height} pixels, {view.camera.model}"
    return [
        SheetCell(f"{index + 1}. {view.view_id}", resized(image, width), (size,)),
        SheetCell("depth", resized(depth_picture(depth, span), width), (caption,)),
        SheetCell("edges of depth over the picture", resized(edges, width)),
    ]


def depth_picture(depth: Array, span: tuple[float, float]) -> Array:
    """Draw depth (H, W) metres on the scale of ``span`` as (H, W, 3) uint8; 0 is hatched."""
    is_valid = (depth > 0)[..., None]
    return np.where(is_valid, viridis(depth, *span), hatched(*depth.shape)).astype(np.uint8)


def depth_edges(depth: Array, camera: Camera) -> Array:
    """Find the pixels at a jump or a crease of depth (H, W) metres or beside a hole, (H, W) bool.

    Over a plane 1 / depth is linear in the pixels, so its second difference is 0 at any slant.
    Where two planes meet, the second difference is the change of slope.
    """
    with np.errstate(divide="ignore"):
        inverse = np.where(depth > 0, 1 / depth.astype(np.float64), 0)
    edges = np.zeros(depth.shape, bool)
    for axis, focal in ((0, camera.K[1, 1]), (1, camera.K[0, 0])):
        bend = np.abs(np.diff(inverse, n=2, axis=axis))
        inner = [slice(None), slice(None)]
        inner[axis] = slice(1, -1)
        centre = depth[tuple(inner)].astype(np.float64)
        allowed = np.maximum(_CREASE / focal, _ROUNDING / np.maximum(centre, 0.01))
        edges[tuple(inner)] |= (bend * centre > allowed) & (centre > 0)
    return edges


def thick(mask: Array) -> Array:
    """Widen a mask (H, W) bool by one pixel right and down, so that it survives downscaling."""
    wide = mask.copy()
    wide[:, 1:] |= mask[:, :-1]
    wide[1:] |= wide[:-1].copy()
    return wide


def _above_sheet(scene: Scene, chosen: Sequence[int]) -> Image.Image:
    width = cell_width(2)
    vertex, frame = seen_from_above(scene, width)
    inside = vertex >= 0
    colors = np.where(inside[..., None], scene.cloud.colors[vertex], 255).astype(np.uint8)
    superpoint_picture = np.where(inside, scene.superpoint_ids[vertex], -1)
    marked = with_cameras(colors, scene.views, {i: str(i + 1) for i in chosen}, frame)
    count = len(np.unique(scene.superpoint_ids))
    shown_views = ", ".join(f"{i + 1}. {scene.views[i].view_id}" for i in chosen)
    sizes = np.bincount(scene.superpoint_ids)
    middle = f"{np.median(sizes[sizes > 0]):.0f}" if len(sizes) else "0"
    cells = [
        SheetCell(
            "colours and cameras",
            marked,
            (f"{len(scene.views)} cameras, each with its field of view; shown: {shown_views}",),
            4,
        ),
        SheetCell(
            "superpoints",
            part_picture(superpoint_picture),
            (f"{count} superpoints, median {middle} points",),
        ),
    ]
    size = np.ptp(scene.cloud.points, axis=0)
    about = (
        f"{len(scene.cloud)} points, {len(scene.triangles)} triangles; "
        f"{size[0]:.2f} x {size[1]:.2f} x {size[2]:.2f} m, seen from above without its ceiling"
    )
    return contact_sheet(f"Scene {scene.scene_id} from above", about, cells, 2)


def seen_from_above(scene: Scene, width: int) -> tuple[Array, tuple[float, float, float]]:
    """Cast vertical rays: vertex ids (h, width) int64, -1 for none, and the frame of the pixels.

    The frame is (x of the left edge, y of the upper edge, metres per pixel); x grows to the right
    and y upwards. Raises DataError for a scan without triangles.
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
        hits = origins[rows] + down[rows] * distance[rows, None]
        gaps = np.linalg.norm(scene.cloud.points[ring] - hits[:, None], axis=2)
        vertex[rows] = ring[np.arange(len(ring)), gaps.argmin(axis=1)]
    return vertex.reshape(height, width), (float(left), float(top), float(step))


def part_picture(parts: Array) -> Array:
    """Colour the ids of ``parts`` (h, w) with dark borders between them, (h, w, 3) uint8.

    -1 is white. Hues of consecutive ids lie a golden section apart, so neighbours differ.
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
    """Draw cameras as dots with their field of view.

    Cameras of ``named`` (labels by index) are orange with their label, the others blue.
    """
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
    """Return both ends of the field of view, ``_WEDGE`` metres before the camera, in the world."""
    half = np.arctan(view.camera.width / 2 / view.camera.K[0, 0])
    rotation = view.world_to_camera[:3, :3]
    sides = np.array([[-np.sin(half), 0, np.cos(half)], [np.sin(half), 0, np.cos(half)]])
    return [view.camera_center + _WEDGE * (rotation.T @ side) for side in sides]


"""Views on a contact_sheet."""
_LARGEST_DOT = 3
_CONTRAST = 100.0
"""Colour difference at the bright end of the scale, in levels of 0 to 255."""


@dataclass(frozen=True)
class Agreement:
    """The agreement of one view's linked points with its image.

    ``covered`` is the share of pixels that hold a point. ``difference`` is the mean absolute
    difference between a point's colour and its pixel's, in levels of 0 to 255 over all channels.
    ``chance`` is the same for points assigned to those pixels at random, which is the expected
    value for a camera with a wrong pose. Both are NaN where the view sees no point.
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
    point_colors, pixel_colors = colors[links.point_ids].astype(np.int64), image[
        row, column
    ].astype(np.int64)
    shuffled = np.random.default_rng(0).permutation(point_colors)
    pixels = len(np.unique(row * image.shape[1] + column))
    return Agreement(
        links.view_id,
        len(links.point_ids),
        pixels / (image.shape[0] * image.shape[1]),
        float(np.abs(point_colors - pixel_colors).mean()),
        float(np.abs(shuffled - pixel_colors).mean()),
    )


def run_links(
    scene: Scene, links: Links, chosen: Sequence[int]
) -> Iterator[tuple[str, Image.Image, list[Agreement]]]:
    """Yield sheets ``links_1``, ``links_2``, ... of the ``chosen`` views, with their agreement.

    ``chosen`` holds indices of views. Raises DataError for an image that cannot be read.
    """
    pages = [chosen[start : start + ROWS] for start in range(0, len(chosen), ROWS)]
    for number, page in enumerate(pages, 1):
        cells: list[SheetCell] = []
        agreements = []
        for index in page:
            view_cells, fit = _links_view_cells(scene, links.view(index), index)
            cells += view_cells
            agreements.append(fit)
        title = "Difference of colours (depth: dark is near)"
        key = scale(0, _CONTRAST, "levels", title, "no point", pale(64, 64))
        heading = f"Scene {scene.scene_id}: points over pictures"
        about = (
            "Where camera and scan fit, the third picture looks like the first. Difference: of a "
            "point's colour from its pixel's, mean over points and channels, of 255 levels; "
            f"chance: the same with points dealt at random. Page {number} of {len(pages)}."
        )
        yield f"links_{number}", contact_sheet(heading, about, cells, 4, key), agreements


def _links_view_cells(
    scene: Scene, links: ViewLinks, index: int
) -> tuple[list[SheetCell], Agreement]:
    view, width = scene.views[index], cell_width(4)
    image = read_image(view)
    fit = agreement(scene.cloud.colors, image, links)
    points = scene.cloud.points[links.point_ids].astype(np.float64)
    depth = transform(view.world_to_camera, points)[:, 2]
    small = resized(image, width)
    uv = links.uv * (width / view.camera.width)
    colors = scene.cloud.colors[links.point_ids]
    radius = dot_radius(small.shape[0] * width, len(points))
    over, _ = dots(small, uv, viridis(depth, *_span(depth)), depth, max(0, radius - 1))
    empty = pale(*small.shape[:2])
    point_picture, covered = dots(empty, uv, colors, depth, radius)
    gaps = np.abs(point_picture.astype(np.int64) - small).mean(axis=2)
    difference = np.where(covered[..., None], viridis(gaps, 0, _CONTRAST), empty).astype(np.uint8)
    near, far = _span(depth)
    cells = [
        SheetCell(f"{index + 1}. {view.view_id}", small),
        SheetCell(
            "points by depth",
            over,
            (f"{fit.points} points, {near:.2f} to {far:.2f} m",),
        ),
        SheetCell(
            "points in their own colours",
            point_picture,
            (f"on {fit.covered:.1%} of pixels",),
        ),
        SheetCell(
            "difference",
            difference,
            (f"{fit.difference:.1f} levels; chance {fit.chance:.1f}",),
        ),
    ]
    return cells, fit


def _span(depth: Array) -> tuple[float, float]:
    return (float(depth.min()), float(depth.max())) if len(depth) else (0.0, 0.0)


def dot_radius(pixels: int, points: int) -> int:
    """Return the radius in pixels at which ``points`` dots fill ``pixels`` without blurring."""
    return min(_LARGEST_DOT, int(np.sqrt(pixels / max(points, 1)) / 2))


def dots(
    picture: Array, uv: Array, colors: Array, depth: Array, radius: int
) -> tuple[Array, Array]:
    """Draw points on ``picture`` (h, w, 3) uint8; also return (h, w) bool, where a point is drawn.

    ``uv`` (L, 2) are pixel coordinates (the pixel is ``floor(uv)``), ``colors`` (L, 3) uint8,
    ``depth`` (L,) metres: nearer points cover farther ones. A point is a square that reaches
    ``radius`` pixels from its own pixel.
    """
    result, (height, width) = picture.copy(), picture.shape[:2]
    far_first = np.argsort(-depth, kind="stable")
    column, row = np.floor(uv[far_first]).astype(np.int64).T
    nearest = np.full((height, width), -1, np.int64)
    reach = range(-radius, radius + 1)
    for dv in reach:
        for du in reach:
            v, u = row + dv, column + du
            inside = (v >= 0) & (v < height) & (u >= 0) & (u < width)
            np.maximum.at(nearest, (v[inside], u[inside]), np.flatnonzero(inside))
    covered = nearest >= 0
    if len(colors):
        result[covered] = colors[far_first][nearest[covered]]
    return result, covered


_COLUMNS = 4


def run_teacher(
    scene: Scene,
    cache: TeacherCache,
    prompts: Sequence[Prompt],
    labels: PseudoLabels | None,
    views: Sequence[int] | int,
) -> Iterator[tuple[Prompt, Image.Image]]:
    """Yield a sheet for each of ``prompts``.

    ``views`` holds the indices of the views to show, or a number of views: these are spread evenly
    from the view with the highest confidence of the teacher to the lowest. With ``labels`` each
    view shows its weight, or the reason why it was dropped.

    Raises ValueError for a prompt that the cache does not hold, DataError for an image that cannot
    be read.
    """
    for prompt in prompts:
        column = cache.prompt_ids.index(prompt.prompt_id)
        chosen = spread_views(cache, column, views) if isinstance(views, int) else views
        cells = [_teacher_cell(scene, cache, labels, column, index) for index in chosen]
        num_masks = int(np.count_nonzero(cache.status[:, column] == MASK))
        order = ", from the surest down" if isinstance(views, int) else ""
        about = (
            f"{prompt.prompt_id}, {prompt.task or 'no task'}. [SEG] on {num_masks} of "
            f"{len(cache.view_ids)} views; {len(chosen)} shown{order}. Orange: the mask; blue: "
            "the mask that an answer without [SEG] held back."
        )
        yield prompt, contact_sheet(prompt.text, about, cells, _COLUMNS)


def spread_views(cache: TeacherCache, column: int, count: int) -> list[int]:
    """Choose at most ``count`` views of one query, evenly from the most confident answer down.

    Confidence is presence times predicted IoU; answers with [SEG] come before the others.
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
    confidence = f"presence {cache.presence[index, column]:.2f}"
    if cache.drawn[index, column]:
        confidence += f", predicted IoU {cache.predicted_iou[index, column]:.2f}"
    notes = [f"{_status(status)}; {confidence}", *_weight(cache, labels, column, index)]
    answer = cache.answers[index][column]
    notes += [f"failed: {answer}" if status == FAILED else f'"{answer}"']
    return SheetCell(f"{index + 1}. {scene.views[index].view_id}", picture, tuple(notes), 3)


def _status(status: int) -> str:
    if status == MASK:
        return "[SEG]"
    return "failed" if status == FAILED else "none (no [SEG])"


def _weight(cache: TeacherCache, labels: PseudoLabels | None, column: int, index: int) -> list[str]:
    """Describe the view's weight in the lifted label; empty without a label of this query."""
    prompt_id = cache.prompt_ids[column]
    if labels is None or prompt_id not in labels.prompt_ids:
        return []
    row = labels.prompt_ids.index(prompt_id)
    reason = labels.drop_reasons[row][index]
    if reason:
        return [f"dropped: {reason}"]
    return [f"gate weight {labels.view_weights[row, index]:.3f}"]
