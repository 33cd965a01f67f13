"""The 3D side of the viewer: points and their colours, cameras, and the view of the user."""

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
"""Cividis at ``_LEVELS``: the same to every colour vision."""


def colored(colors: Array, probs: Array, mask: Array, truth: Array | None, how: Coloring) -> Array:
    """(N, 3) uint8 of points of ``colors`` (N, 3) uint8.

    Args:
        colors: as scanned.
        probs: (N,) in [0, 1], for "how sure".
        mask: (N,) bool, the answer.
        truth: (N,) bool where it is known; without, "right or wrong" is "answer".
        how: what to show.
    """
    if how == "scan alone":
        return colors
    gray = colors.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    shape = (0.55 + 0.45 * gray / 255)[:, None]
    if how == "how sure":
        ramp = np.stack([np.interp(probs, _LEVELS, _RAMP[:, c]) for c in range(3)], axis=1)
        return _bytes(ramp * shape)
    shown = _DIM * (0.35 * colors + 0.65 * gray[:, None])
    parts: tuple[tuple[Array, tuple[int, int, int]], ...] = ((mask, GLOW),)
    if truth is not None and how == "right or wrong":
        parts = ((mask & truth, BOTH), (mask & ~truth, ONLY), (truth & ~mask, MISSED))
    for part, color in parts:
        shown[part] = shape[part] * np.array(color, np.float32)
    return _bytes(shown)


def emphasised(mask: Array, truth: Array | None, how: Coloring) -> Array:
    """(N,) bool, the points that must be seen whatever stands before them."""
    if how == "scan alone":
        return np.zeros_like(mask)
    return mask | truth if truth is not None and how == "right or wrong" else mask


def _bytes(colors: Array) -> Array:
    return np.asarray(np.rint(colors).clip(0, 255), np.uint8)


INSIDE = -1
"""The part of a scan that is at none of its six sides."""
_WALL, _WALL_SHARE = 0.12, 0.05
_TRUSTED_SHARE, _STRAIGHT = 0.75, 0.9
_SAMPLE = 2000
_IMAGE_WIDTH = 160
_WIDEST = np.deg2rad(150)
_FRUSTUM = 0.04


class CloudNodes:
    """One scan's nodes in a viser scene.

    Points of each side (walls, ceiling, floor) are nodes of their own, so that those between the
    camera and the room can be left out; an answer is drawn anyway.
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
        """Show points in ``colors`` (N, 3) uint8, those ``emphasised`` (N,) bool never cut away."""
        for side, handle in self._clouds.items():
            handle.colors = colors[self._parts[side]]
        if self._answer is not None:
            self._answer.remove()
        part = np.flatnonzero(emphasised)
        self._answer = self._add("answer", part, colors) if len(part) else None

    def look_from(self, eye: Array) -> None:
        """Cut away what is between the room and ``eye`` (3,), metres."""
        self._eye = eye
        self._show_sides()

    def cut(self, is_cut: bool) -> None:
        """Cut away what hides the room, or show all."""
        self._is_cut = is_cut
        self._show_sides()

    def _show_sides(self) -> None:
        beyond = np.concatenate([self._eye < self.low, self._eye > self.high])
        for side, handle in self._clouds.items():
            shown = side == INSIDE or not (self._is_cut and beyond[side])
            if handle.visible != shown:
                handle.visible = shown

    def resize(self, point_size: float) -> None:
        """Draw points of this diameter, metres."""
        self.point_size = point_size
        for handle in (*self._clouds.values(), self._answer):
            if handle is not None:
                handle.point_size = point_size

    def look(self) -> tuple[Array, Array]:
        """(3,) where to look from, from above a corner, and (3,) what at; metres."""
        return self.center + self.radius * np.array([0.82, -0.96, 1.35]), self.center

    def show_cameras(self, shown: bool) -> list[str]:
        """Show or hide the views as frusta, which are made when first shown.

        A click on one looks through it. Returns what images could not be read.
        """
        failed = []
        if shown and self._cameras is None:
            self._cameras = self._server.scene.add_frame("/cameras", show_axes=False)
            failed = [told for k in range(len(self._scene.views)) if (told := self._camera(k))]
        if self._cameras is not None:
            self._cameras.visible = shown
        return failed

    def _camera(self, index: int) -> str:
        view = self._scene.views[index]
        picture, told = None, ""
        try:
            picture = small(read_image(view), _IMAGE_WIDTH)
        except Exception as error:  # noqa: B902 - a missing picture costs its frustum's face only
            told = str(error)
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
        return told

    def remove(self) -> None:
        """Take everything of this scan away."""
        for handle in (*self._clouds.values(), self._answer, self._cameras):
            if handle is not None:
                handle.remove()


def _look_through(client: Any, turn: Array, place: Array) -> None:
    if client is not None:
        client.camera.wxyz, client.camera.position = turn, place


def small(image: Array, width: int) -> Array:
    """An image (H, W, 3) uint8 at most ``width`` pixels wide."""
    if image.shape[1] <= width:
        return image
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def _vertical_fov(view: View) -> float:
    """Radians; of a fisheye what a frustum can show of it."""
    camera = view.camera
    if camera.model == "PINHOLE":
        return float(2 * np.arctan(camera.height / (2 * camera.K[1, 1])))
    return float(min(camera.height / camera.K[1, 1], _WIDEST))


def _extent(points: Array) -> tuple[Array, Array]:
    """Lowest and highest corner (3,) of the scan without its outliers."""
    if not len(points):
        return -np.ones(3), np.ones(3)
    low, high = np.percentile(points.astype(np.float64), [0.5, 99.5], axis=0)
    return low, high


def sides(cloud: PointCloud, low: Array, high: Array) -> dict[int, Array]:
    """Point ids by side: axis k's low side is k, its high side 3 + k, all else ``INSIDE``.

    Of a side are the points that face away from it, into the room: looked at from beyond it, they
    show their backs. Where a scan's normals cannot be trusted it is what lies at the border, as
    thick as a wall. No side is empty.
    """
    points, normals = cloud.points, cloud.normals
    thick = np.minimum(_WALL, _WALL_SHARE * (high - low))
    border = np.concatenate([points < low + thick, points > high - thick], axis=1)
    inward = np.concatenate([normals, -normals], axis=1)
    at = border
    for facing in (inward, -inward):
        if np.count_nonzero(facing[border] > 0) > _TRUSTED_SHARE * np.count_nonzero(border):
            at = facing > _STRAIGHT
    side = np.where(at.any(axis=1), at.argmax(axis=1), INSIDE)
    found = {k: np.flatnonzero(side == k) for k in range(INSIDE, 6)}
    return {k: part for k, part in found.items() if len(part)}


def _spacing(points: Array) -> float:
    """Metres between neighbouring points, so that drawn at this size they close up."""
    if len(points) < 2:
        return 0.02
    some = points[np.linspace(0, len(points) - 1, min(len(points), _SAMPLE)).astype(int)]
    gaps = cKDTree(points).query(some, k=2)[0][:, 1]
    return float(np.clip(np.median(gaps), 0.005, 0.2))
