"""The 3D scene of the viewer: points and their colours, cameras, and the user's viewpoint."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import viser
import viser.transforms
from PIL import Image
from scipy.spatial import cKDTree

from data.types import Array, PointCloud, Scene, View
from stages.report.pictures import BOTH, MISSED, ONLY
from stages.scene.view_images import read_image

Coloring = Literal["answer", "how sure", "right or wrong", "scan alone"]
COLORINGS: tuple[Coloring, ...] = get_args(Coloring)
GLOW = (255, 176, 32)
_DIM = 0.6
_LEVELS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
_RAMP = np.array([[0, 32, 76], [60, 77, 110], [124, 123, 120], [187, 175, 113], [255, 234, 70]])
"""The colour map cividis at ``_LEVELS``, which looks the same with any colour vision."""


def colored(colors: Array, probs: Array, mask: Array, truth: Array | None, how: Coloring) -> Array:
    """Return the colours of points (N, 3) uint8 for a colouring.

    Args:
        colors: (N, 3) uint8, as scanned.
        probs: (N,) in [0, 1], for "how sure".
        mask: (N,) bool, the answer.
        truth: (N,) bool, None where it is unknown; then "right or wrong" is the same as "answer".
        how: the colouring.
    """
    if how == "scan alone":
        return colors
    gray = colors.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    shape = (0.55 + 0.45 * gray / 255)[:, None]
    if how == "how sure":
        ramp = np.stack([np.interp(probs, _LEVELS, _RAMP[:, c]) for c in range(3)], axis=1)
        return _bytes(ramp * shape)
    result = _DIM * (0.35 * colors + 0.65 * gray[:, None])
    parts: tuple[tuple[Array, tuple[int, int, int]], ...] = ((mask, GLOW),)
    if truth is not None and how == "right or wrong":
        parts = ((mask & truth, BOTH), (mask & ~truth, ONLY), (truth & ~mask, MISSED))
    for part, color in parts:
        result[part] = shape[part] * np.array(color, np.float32)
    return _bytes(result)


def emphasised(mask: Array, truth: Array | None, how: Coloring) -> Array:
    """Return the points that are never hidden behind others, (N,) bool."""
    if how == "scan alone":
        return np.zeros_like(mask)
    return mask | truth if truth is not None and how == "right or wrong" else mask


def _bytes(colors: Array) -> Array:
    return np.asarray(np.rint(colors).clip(0, 255), np.uint8)


INSIDE = -1
"""The part of a scan that lies at none of its six sides."""
_WALL, _WALL_SHARE = 0.12, 0.05
_TRUSTED_SHARE, _STRAIGHT = 0.75, 0.9
_SAMPLE = 2000
_IMAGE_WIDTH = 160
_WIDEST = np.deg2rad(150)
_FRUSTUM = 0.04


class CloudNodes:
    """The nodes of one scan in a viser scene.

    The points of each side (walls, ceiling, floor) are separate nodes, so that those between the
    camera and the room can be hidden; the points of an answer are always drawn.
    """

    def __init__(self, server: viser.ViserServer, scene: Scene) -> None:
        self._server, self._scene = server, scene
        self.low, self.high = _extent(scene.cloud.points)
        self.center = (self.low + self.high) / 2
        self.radius = float(np.linalg.norm(self.high - self.low) / 2) + 1e-3
        self.point_size = _spacing(scene.cloud.points)
        self._parts = sides(scene.cloud, self.low, self.high)
        colors = scene.cloud.colors
        self._clouds = {k: self._add(f"scan{k}", part, colors) for k, part in self._parts.items()}
        self._answer: Any = None
        self._cameras: Any = None
        self._is_cut, self._eye = True, self.look()[0]
        self._show_sides()

    def _add(self, name: str, part: Array, colors: Array) -> viser.PointCloudHandle:
        return self._server.scene.add_point_cloud(
            f"/{name}",
            self._scene.cloud.points[part],
            colors[part],
            point_size=self.point_size,
            point_shape="circle",
            precision="float32",
            point_shading="flat",
        )

    def paint(self, colors: Array, emphasised: Array) -> None:
        """Show points in ``colors`` (N, 3) uint8; ``emphasised`` (N,) bool are never hidden."""
        for side, handle in self._clouds.items():
            handle.colors = colors[self._parts[side]]
        if self._answer is not None:
            self._answer.remove()
        part = np.flatnonzero(emphasised)
        self._answer = self._add("answer", part, colors) if len(part) else None

    def look_from(self, eye: Array) -> None:
        """Hide the sides between the room and ``eye`` (3,), metres."""
        self._eye = eye
        self._show_sides()

    def cut(self, is_cut: bool) -> None:
        """Hide the sides before the room, or show all."""
        self._is_cut = is_cut
        self._show_sides()

    def _show_sides(self) -> None:
        beyond = np.concatenate([self._eye < self.low, self._eye > self.high])
        for side, handle in self._clouds.items():
            shown = side == INSIDE or not (self._is_cut and beyond[side])
            if handle.visible != shown:
                handle.visible = shown

    def resize(self, point_size: float) -> None:
        """Draw points with this diameter, metres."""
        self.point_size = point_size
        for handle in (*self._clouds.values(), self._answer):
            if handle is not None:
                handle.point_size = point_size

    def look(self) -> tuple[Array, Array]:
        """Return a camera position (3,) above a corner and its target (3,), metres."""
        return self.center + self.radius * np.array([0.82, -0.96, 1.35]), self.center

    def show_cameras(self, shown: bool) -> list[str]:
        """Show or hide the views as frusta, which are made at the first call.

        A click on a frustum moves the user's camera there. Returns messages about unreadable
        images.
        """
        failed = []
        if shown and self._cameras is None:
            self._cameras = self._server.scene.add_frame("/cameras", show_axes=False)
            failed = [
                message for k in range(len(self._scene.views)) if (message := self._camera(k))
            ]
        if self._cameras is not None:
            self._cameras.visible = shown
        return failed

    def _camera(self, index: int) -> str:
        view = self._scene.views[index]
        picture, message = None, ""
        try:
            picture = small(read_image(view), _IMAGE_WIDTH)
        except Exception as error:  # noqa: B902 - a missing picture costs its frustum's face only
            message = str(error)
        turn = viser.transforms.SO3.from_matrix(view.world_to_camera[:3, :3].T).wxyz
        handle = self._server.scene.add_camera_frustum(
            f"/cameras/{index:04d}",  # Never the view's id: a name with slashes would be a path.
            fov=_vertical_fov(view),
            aspect=view.camera.width / view.camera.height,
            scale=_FRUSTUM * self.radius,
            color=(86, 180, 233),
            image=picture,
            wxyz=turn,
            position=view.camera_center,
        )
        handle.on_click(lambda event: _look_through(event.client, turn, view.camera_center))
        return message

    def remove(self) -> None:
        """Remove all nodes of this scan."""
        for handle in (*self._clouds.values(), self._answer, self._cameras):
            if handle is not None:
                handle.remove()


def _look_through(client: Any, turn: Array, position: Array) -> None:
    if client is not None:
        client.camera.wxyz, client.camera.position = turn, position


def small(image: Array, width: int) -> Array:
    """Downscale an image (H, W, 3) uint8 to at most ``width`` pixels across."""
    if image.shape[1] <= width:
        return image
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def _vertical_fov(view: View) -> float:
    """Return the vertical field of view, radians; limited to 150 degrees for a fisheye."""
    camera = view.camera
    if camera.model == "PINHOLE":
        return float(2 * np.arctan(camera.height / (2 * camera.K[1, 1])))
    return float(min(camera.height / camera.K[1, 1], _WIDEST))


def _extent(points: Array) -> tuple[Array, Array]:
    """Return the lowest and highest corner (3,) of the scan without outliers, metres."""
    if not len(points):
        return -np.ones(3), np.ones(3)
    low, high = np.percentile(points.astype(np.float64), [0.5, 99.5], axis=0)
    return low, high


def sides(cloud: PointCloud, low: Array, high: Array) -> dict[int, Array]:
    """Return point ids by side: k is the low side of axis k, 3 + k its high side, else ``INSIDE``.

    The points of a side face away from it into the room, so from outside the user sees their
    backs. Where the scan's normals are inconsistent, a side holds the points within a wall's
    thickness of the border. Sides without points are omitted.
    """
    points, normals = cloud.points, cloud.normals
    thick = np.minimum(_WALL, _WALL_SHARE * (high - low))
    border = np.concatenate([points < low + thick, points > high - thick], axis=1)
    inward = np.concatenate([normals, -normals], axis=1)
    is_at = border
    for facing in (inward, -inward):
        if np.count_nonzero(facing[border] > 0) > _TRUSTED_SHARE * np.count_nonzero(border):
            is_at = facing > _STRAIGHT
    side = np.where(is_at.any(axis=1), is_at.argmax(axis=1), INSIDE)
    ids_by_side = {k: np.flatnonzero(side == k) for k in range(INSIDE, 6)}
    return {k: part for k, part in ids_by_side.items() if len(part)}


def _spacing(points: Array) -> float:
    """Return the median distance of neighbours, metres: drawn at this size, points join up."""
    if len(points) < 2:
        return 0.02
    sample = points[np.linspace(0, len(points) - 1, min(len(points), _SAMPLE)).astype(int)]
    gaps = cKDTree(points).query(sample, k=2)[0][:, 1]
    return float(np.clip(np.median(gaps), 0.005, 0.2))
