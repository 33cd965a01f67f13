"""Cast rays on triangle meshes and rasterise meshes to depth and triangle ids; import Open3D.

Only this module imports Open3D, whose library needs libusb-1.0. If the system lacks it, the copy
in the package ``libusb-package`` is loaded first; for any other missing library the error names
the apt-get command (most servers need none).

Rasterisation is homogeneous (Olano and Greer 1997): in the camera frame the ray through a pixel
has the direction d = (a, b, 1). It hits the triangle (v0, v1, v2) where the three determinants
e_i = det(d, v_j, v_k) have the sign of det(v0, v1, v2), at 1 / z = (n . d) / (n . v0), where n
is the triangle's normal. All of these are linear in a and b, and nothing is divided by a
vertex's z, so triangles that reach behind the camera need no clipping. Edges are moved outwards
by more than the rounding error, about a millionth of a pixel: where two triangles share an edge,
each pixel lies in at least one of them, and a closed mesh has no holes.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import threading
from functools import cache, cached_property, lru_cache
from types import ModuleType
from typing import Any

import numpy as np

from data.compiled import compiled
from data.errors import UserError
from data.geometry.cameras import pixel_centers, rotate, unproject
from data.types import Array, Camera

APT_LINE = "apt-get install libgl1 libegl1 libx11-6 libgomp1 libusb-1.0-0"


@cache
def open3d() -> ModuleType:
    """Import Open3D, preloading libusb where the system has none; UserError when it cannot."""
    if ctypes.util.find_library("usb-1.0") is None:
        import libusb_package

        ctypes.CDLL(str(libusb_package.get_library_path()), mode=ctypes.RTLD_GLOBAL)
    try:
        import open3d as library
    except (ImportError, OSError) as error:
        raise UserError(f"Open3D cannot be loaded ({error}); run: {APT_LINE}") from error
    return library


# Upper bound of the relative error of a determinant of three float64 vectors.
_ROUNDING = 1e-14
# Pixels by which a triangle's bounding box is enlarged, because of rounding errors.
_MARGIN = 1e-6


class Rasteriser:
    """Rasterises one mesh for pinhole cameras; several threads may call ``render`` at once."""

    def __init__(self, vertices: Array, triangles: Array) -> None:
        """Keep ``vertices`` (V, 3) metres, rounded to float32, and ``triangles`` (F, 3).

        Triangles with a vertex that is not finite are never seen.

        Raises:
            ValueError: a triangle's vertex does not exist.
        """
        self.vertices = np.ascontiguousarray(vertices, np.float32)
        self.triangles = np.ascontiguousarray(triangles, np.int32)
        count = len(vertices)
        if len(triangles) and (triangles.min() < 0 or triangles.max() >= count):
            raise ValueError(f"triangles of vertices beyond the {count} there are")
        self._threads = threading.local()

    def render(self, camera: Camera, world_to_camera: Array) -> tuple[Array, Array]:
        """Return depth (H, W) float32 and triangle ids (H, W) int32 of the nearest surface.

        Depth is in metres along z at each pixel's centre, 0 = no hit, where the id is -1. Of
        triangles at equal depth the first one is taken.

        Raises:
            ValueError: the camera is no pinhole.
        """
        if camera.model != "PINHOLE":
            raise ValueError(f"only pinhole cameras are drawn, not {camera.model}")
        if not hasattr(self._threads, "scratch"):
            self._threads.scratch = np.empty((len(self.vertices), 5))
        projected = self._threads.scratch
        K, size = camera.K, (camera.height, camera.width)
        lens = np.array([K[0, 0], K[0, 2], K[1, 1], K[1, 2]], np.float64)
        across = (np.arange(camera.width) + 0.5 - K[0, 2]) / K[0, 0]
        along = (np.arange(camera.height) + 0.5 - K[1, 2]) / K[1, 1]
        nearness, ids = np.zeros(size, np.float32), np.full(size, -1, np.int32)
        _project(self.vertices, np.ascontiguousarray(world_to_camera[:3]), lens, projected)
        _draw(projected, self.triangles, lens, across, along, nearness, ids)
        _invert(nearness.ravel())
        return nearness, ids


@compiled
def _project(vertices: Array, pose: Array, lens: Array, projected: Array) -> None:
    """Fill ``projected`` (V, 5): x, y, z in metres, camera frame, and u, v in pixels where z > 0.

    z is NaN for a vertex that is not finite.
    """
    for i in range(len(vertices)):
        x, y, up = float(vertices[i, 0]), float(vertices[i, 1]), float(vertices[i, 2])
        right = pose[0, 0] * x + pose[0, 1] * y + pose[0, 2] * up + pose[0, 3]
        down = pose[1, 0] * x + pose[1, 1] * y + pose[1, 2] * up + pose[1, 3]
        away = pose[2, 0] * x + pose[2, 1] * y + pose[2, 2] * up + pose[2, 3]
        projected[i, 0] = right
        projected[i, 1] = down
        projected[i, 2] = away if np.isfinite(right + down + away) else np.nan
        projected[i, 3] = lens[0] * (right / away) + lens[1]
        projected[i, 4] = lens[2] * (down / away) + lens[3]


@compiled
def _draw(
    projected: Array,
    triangles: Array,
    lens: Array,
    across: Array,
    along: Array,
    nearness: Array,
    ids: Array,
) -> None:
    """Draw all triangles in their order into ``nearness`` (H, W), which is 1 / z, and ``ids``.

    ``nearness`` is 0 at the start. ``across`` (W,) is x / z of the rays of the columns and
    ``along`` (H,) is y / z of the rays of the rows.
    """
    height, width = nearness.shape
    farthest_out = max(abs(across[0]), abs(across[-1]), abs(along[0]), abs(along[-1]), 1.0)
    planes = np.empty((4, 3))
    for triangle in range(len(triangles)):
        i, j, k = triangles[triangle, 0], triangles[triangle, 1], triangles[triangle, 2]
        zi, zj, zk = projected[i, 2], projected[j, 2], projected[k, 2]
        near, far = min(zi, min(zj, zk)), max(zi, max(zj, zk))
        if np.isnan(zi + zj + zk) or far <= 0:
            continue
        left, right, top, bottom = 0, width - 1, 0, height - 1
        if near > 0:  # A triangle that reaches behind the camera may cover any pixel.
            ui, uj, uk = projected[i, 3], projected[j, 3], projected[k, 3]
            vi, vj, vk = projected[i, 4], projected[j, 4], projected[k, 4]
            left = _first(min(ui, min(uj, uk)), width)
            right = _last(max(ui, max(uj, uk)), width)
            top = _first(min(vi, min(vj, vk)), height)
            bottom = _last(max(vi, max(vj, vk)), height)
        elif _is_beside(projected, i, j, k, across, along):
            continue
        if left > right or top > bottom:
            continue
        if not _planes(projected, i, j, k, farthest_out, planes):
            continue
        least, most = 1 / far, 1 / near if near > 0 else np.inf
        box = (left, right, top, bottom)
        _fill(planes, lens, across, along, box, least, most, triangle, nearness, ids)


@compiled
def _is_beside(projected: Array, i: int, j: int, k: int, across: Array, along: Array) -> bool:
    """Whether all three vertices lie outside the same side plane of the view frustum."""
    for axis, rays in ((0, across), (1, along)):
        x, y, z = projected[i, axis], projected[j, axis], projected[k, axis]
        low, high = rays[0], rays[-1]
        zi, zj, zk = projected[i, 2], projected[j, 2], projected[k, 2]
        sizes = abs(x) + abs(y) + abs(z) + abs(zi) + abs(zj) + abs(zk)
        slack = _ROUNDING * sizes * (1 + abs(low) + abs(high))
        if max(x - low * zi, max(y - low * zj, z - low * zk)) < -slack:
            return True
        if min(x - high * zi, min(y - high * zj, z - high * zk)) > slack:
            return True
    return False


@compiled
def _first(lowest: float, count: int) -> int:
    """Return the first of ``count`` pixels whose centre is at ``lowest`` or after it."""
    start = lowest - 0.5 - _MARGIN
    if start <= 0:
        return 0
    return int(np.ceil(start)) if start < count else count


@compiled
def _last(highest: float, count: int) -> int:
    """Return the last of ``count`` pixels whose centre is at ``highest`` or before it, or -1."""
    end = highest - 0.5 + _MARGIN
    if end >= count - 1:
        return count - 1
    return int(np.floor(end)) if end >= 0 else -1


@compiled
def _planes(projected: Array, i: int, j: int, k: int, farthest_out: float, planes: Array) -> bool:
    """Fill a triangle's ``planes`` (4, 3); return False for a triangle that covers no pixel.

    A ray d hits the triangle where the dot products of planes 0 to 2 with d are all >= 0; the
    dot product of plane 3 with d is then 1 / z.
    """
    px, py, pz = projected[i, 0], projected[i, 1], projected[i, 2]
    qx, qy, qz = projected[j, 0], projected[j, 1], projected[j, 2]
    rx, ry, rz = projected[k, 0], projected[k, 1], projected[k, 2]
    ax, ay, az = qx - px, qy - py, qz - pz
    bx, by, bz = rx - px, ry - py, rz - pz
    nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    volume = px * nx + py * ny + pz * nz
    sp, sq, sr = (
        abs(px) + abs(py) + abs(pz),
        abs(qx) + abs(qy) + abs(qz),
        abs(rx) + abs(ry) + abs(rz),
    )
    if abs(volume) <= _ROUNDING * sp * (abs(nx) + abs(ny) + abs(nz)):
        return False  # The triangle has no area, or is seen edge-on.
    inverse = 1 / volume
    planes[3, 0] = nx * inverse
    planes[3, 1] = ny * inverse
    planes[3, 2] = nz * inverse
    sign = 1.0 if volume > 0 else -1.0
    widening = _ROUNDING * farthest_out
    # Adding 0.0 turns -0.0 into 0.0, which keeps an edge along the rows on its side.
    planes[0, 0] = sign * (qy * rz - qz * ry) + 0.0
    planes[0, 1] = sign * (qz * rx - qx * rz)
    planes[0, 2] = sign * (qx * ry - qy * rx) + widening * sq * sr
    planes[1, 0] = sign * (ry * pz - rz * py) + 0.0
    planes[1, 1] = sign * (rz * px - rx * pz)
    planes[1, 2] = sign * (rx * py - ry * px) + widening * sr * sp
    planes[2, 0] = sign * (py * qz - pz * qy) + 0.0
    planes[2, 1] = sign * (pz * qx - px * qz)
    planes[2, 2] = sign * (px * qy - py * qx) + widening * sp * sq
    return True


@compiled
def _fill(
    planes: Array,
    lens: Array,
    across: Array,
    along: Array,
    box: tuple[int, int, int, int],
    least: float,
    most: float,
    triangle: int,
    nearness: Array,
    ids: Array,
) -> None:
    """Draw a triangle's pixels within ``box``, row by row from its left to its right edge.

    ``least`` and ``most`` are the smallest and largest 1 / z of its vertices; values beyond them
    are rounding errors and are clipped.
    """
    left, right, top, bottom = box
    focal, middle = lens[0], lens[1] - 0.5
    # An edge along the rows has its crossing at infinity: it cuts off a whole row or nothing.
    f0, f1, f2 = focal / planes[0, 0], focal / planes[1, 0], focal / planes[2, 0]
    is_left0, is_left1, is_left2 = planes[0, 0] >= 0, planes[1, 0] >= 0, planes[2, 0] >= 0
    y0, y1, y2 = planes[0, 1], planes[1, 1], planes[2, 1]
    z0, z1, z2 = planes[0, 2], planes[1, 2], planes[2, 2]
    slope = planes[3, 0]
    for row in range(top, bottom + 1):
        b = along[row]
        c0 = middle - (y0 * b + z0) * f0
        c1 = middle - (y1 * b + z1) * f1
        c2 = middle - (y2 * b + z2) * f2
        start = max(c0 if is_left0 else left, c1 if is_left1 else left)
        start = min(max(max(start, c2 if is_left2 else left), left), right + 1)
        end = min(right if is_left0 else c0, right if is_left1 else c1)
        end = max(min(min(end, right if is_left2 else c2), right), left - 1)
        rest = planes[3, 1] * b + planes[3, 2]
        # Clipping keeps the index inside the box where the crossing is NaN.
        first = max(int(np.ceil(start - _MARGIN)), left)
        last = min(int(np.floor(end + _MARGIN)), right)
        for column in range(first, last + 1):
            near = np.float32(min(max(slope * across[column] + rest, least), most))
            if near > nearness[row, column]:
                nearness[row, column] = near
                ids[row, column] = triangle


@compiled
def _invert(values: Array) -> None:
    """Replace each value by 1 / value in place; 0 stays 0."""
    for i in range(len(values)):
        values[i] = np.float32(1) / values[i] if values[i] > 0 else np.float32(0)


def warm() -> None:
    """Load this module's compiled loops, or compile them."""
    corners = np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1]], np.float32)
    camera = Camera("PINHOLE", np.eye(3), 2, 2)
    Rasteriser(corners, np.array([[0, 1, 2]])).render(camera, np.eye(4))


@lru_cache(maxsize=2)
def _rays(camera: Camera) -> tuple[Array, Array]:
    """Return the finite rays of ``unproject`` and (H * W,) bool: the pixels that have a ray."""
    rays_in_camera = unproject(camera, pixel_centers(camera.height, camera.width))
    usable = np.asarray(np.isfinite(rays_in_camera).all(axis=1))
    return rays_in_camera[usable], usable


class Raycaster:
    """Finds the nearest hits of rays on one mesh: ``vertices`` (V, 3) metres, ``triangles`` (F, 3).

    Open3D casts rays of any origin and direction. Images of pinhole cameras are rasterised, which
    is several times as fast and needs no tree of the mesh. Both round vertices to float32.
    """

    def __init__(self, vertices: Array, triangles: Array) -> None:
        """Keep the mesh; raise ValueError when a triangle's vertex does not exist."""
        self._rasteriser = Rasteriser(vertices, triangles)

    @cached_property
    def _scene(self) -> Any:
        o3d = open3d()
        scene = o3d.t.geometry.RaycastingScene()
        scene.add_triangles(
            o3d.core.Tensor(self._rasteriser.vertices),
            o3d.core.Tensor(self._rasteriser.triangles.astype(np.uint32)),
        )
        return scene

    def cast(self, origins: Array, directions: Array) -> tuple[Array, Array]:
        """Return hit distances (N,) float32, in units of the direction, and triangles (N,) int64.

        ``origins`` is (N, 3) or (3,), ``directions`` (N, 3); misses are (inf, -1).
        """
        rays = np.empty((len(directions), 6), np.float32)
        rays[:, :3] = origins
        rays[:, 3:] = directions
        hits = self._scene.cast_rays(open3d().core.Tensor(rays))
        triangle = hits["primitive_ids"].numpy().astype(np.int64)
        triangle[triangle == 0xFFFFFFFF] = -1
        return hits["t_hit"].numpy(), triangle

    def occluded(self, origins: Array, directions: Array, far: float) -> Array:
        """(N,) bool: a surface lies between a ray's origin and ``far`` lengths of its direction."""
        rays = np.empty((len(directions), 6), np.float32)
        rays[:, :3] = origins
        rays[:, 3:] = directions
        tensor = open3d().core.Tensor(rays)
        return np.asarray(self._scene.test_occlusions(tensor, tfar=far).numpy())

    def render(self, camera: Camera, world_to_camera: Array) -> tuple[Array, Array]:
        """Return depth (H, W) float32 metres along z (0 = no hit) and triangle ids (H, W) int32.

        Each pixel's centre has one ray; pixels without a ray (beyond a fisheye's 90 degrees) are
        misses, with id -1. For pinholes several threads may call it at once.
        """
        if camera.model == "PINHOLE":
            return self._rasteriser.render(camera, world_to_camera)
        rays_in_camera, usable = _rays(camera)
        camera_to_world = np.linalg.inv(world_to_camera)
        directions = rotate(camera_to_world[:3, :3], rays_in_camera)
        distance, triangle = self.cast(camera_to_world[:3, 3], directions)
        depth = np.zeros(len(usable), np.float32)
        ids = np.full(len(usable), -1, np.int32)
        depth[usable] = np.where(triangle >= 0, distance, 0)
        ids[usable] = triangle
        shape = (camera.height, camera.width)
        return depth.reshape(shape), ids.reshape(shape)
