"""What rays meet first on triangle meshes."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from data.cameras import pixel_centers, rotate, unproject
from data.open3d_library import open3d
from data.rasterise import Rasteriser
from data.types import Array, Camera


@lru_cache(maxsize=2)
def _rays(camera: Camera) -> tuple[Array, Array]:
    """Usable rays of ``unproject`` and (H * W,) bool, which pixels have one; views share them."""
    rays_in_camera = unproject(camera, pixel_centers(camera.height, camera.width))
    usable = np.asarray(np.isfinite(rays_in_camera).all(axis=1))
    return rays_in_camera[usable], usable


class Raycaster:
    """Nearest hits of rays on one mesh: ``vertices`` (V, 3) metres, ``triangles`` (F, 3).

    Rays of any origin and direction are cast by Open3D; those of a pinhole camera's pixels are
    drawn triangle by triangle, which is several times as fast and needs no tree of the mesh. Both
    see vertices rounded to float32.
    """

    def __init__(self, vertices: Array, triangles: Array) -> None:
        """Raise ValueError for a triangle whose vertex is not there."""
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
        """Hit distance (N,) float32 in units of each direction, and triangle (N,) int64.

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
        """(N,) bool: something lies between a ray's origin and ``far`` of its direction."""
        rays = np.empty((len(directions), 6), np.float32)
        rays[:, :3] = origins
        rays[:, 3:] = directions
        tensor = open3d().core.Tensor(rays)
        return np.asarray(self._scene.test_occlusions(tensor, tfar=far).numpy())

    def render(self, camera: Camera, world_to_camera: Array) -> tuple[Array, Array]:
        """Depth (H, W) float32 metres along z (0 = no hit) and triangle ids (H, W) int32.

        One ray through every pixel centre; pixels without a ray (beyond a fisheye's 90
        degrees) count as misses. May be called by several threads at once for pinholes.
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
