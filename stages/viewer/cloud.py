"""The 3D side of the viewer: the scan's points, its cameras, and where one looks from."""

from __future__ import annotations

from typing import Any

import numpy as np
import viser
import viser.transforms
from PIL import Image
from scipy.spatial import cKDTree

from data.types import Array, Scene, View
from stages.view_images import read_image

_CEILING_SHARE = 0.05
_SAMPLE = 2000
_IMAGE_WIDTH = 160
_WIDEST = np.deg2rad(150)
_FRUSTUM = 0.04


class CloudNodes:
    """One scan's nodes in a viser scene: what is under the ceiling, and the ceiling."""

    def __init__(self, server: viser.ViserServer, scene: Scene) -> None:
        self._server, self._scene = server, scene
        self.center, self.radius, high = _extent(scene.cloud.points)
        above = scene.cloud.points[:, 2] > high
        self._parts = [np.flatnonzero(~above), np.flatnonzero(above)]
        self.point_size = _spacing(scene.cloud.points)
        self._clouds = [
            self._add(name, part) for name, part in zip(("scan", "ceiling"), self._parts)
        ]
        self._cameras: Any = None

    def _add(self, name: str, part: Array) -> viser.PointCloudHandle:
        cloud = self._scene.cloud
        return self._server.scene.add_point_cloud(
            f"/{name}",
            cloud.points[part],
            cloud.colors[part],
            point_size=self.point_size,
            point_shape="circle",
            precision="float32",
            point_shading="flat",
        )

    def paint(self, colors: Array) -> None:
        """Show points in ``colors`` (N, 3) uint8."""
        for handle, part in zip(self._clouds, self._parts, strict=True):
            handle.colors = colors[part]

    def show_ceiling(self, shown: bool) -> None:
        """Show or hide the uppermost points."""
        self._clouds[1].visible = shown

    def resize(self, point_size: float) -> None:
        """Draw points of this diameter, metres."""
        for handle in self._clouds:
            handle.point_size = point_size

    def look(self) -> tuple[Array, Array]:
        """(3,) where to look from, from above a corner, and (3,) what at; metres."""
        return self.center + self.radius * np.array([0.75, -0.9, 1.25]), self.center

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
        for handle in (*self._clouds, self._cameras):
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


def _extent(points: Array) -> tuple[Array, float, float]:
    """Centre and radius of the scan without its outliers, and the height its ceiling begins at."""
    if not len(points):
        return np.zeros(3), 1.0, 0.0
    low, high = np.percentile(points.astype(np.float64), [0.5, 99.5], axis=0)
    radius = float(np.linalg.norm(high - low) / 2) + 1e-3
    return (low + high) / 2, radius, float(high[2] - _CEILING_SHARE * (high[2] - low[2]))


def _spacing(points: Array) -> float:
    """Metres between neighbouring points, so that drawn at this size they close up."""
    if len(points) < 2:
        return 0.02
    some = points[np.linspace(0, len(points) - 1, min(len(points), _SAMPLE)).astype(int)]
    gaps = cKDTree(points).query(some, k=2)[0][:, 1]
    return float(np.clip(np.median(gaps), 0.005, 0.2))
