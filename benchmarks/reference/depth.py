"""Depth of a mesh as it is commonly rendered: one ray-cast call per view, default settings."""

from __future__ import annotations

import numpy as np

from data.geometry.raycast import open3d
from data.types import Array


class RayCasting:
    """Open3D's tree of a mesh, ``vertices`` (V, 3) metres and ``triangles`` (F, 3)."""

    def __init__(self, vertices: Array, triangles: Array) -> None:
        o3d = open3d()
        self._scene = o3d.t.geometry.RaycastingScene()
        self._scene.add_triangles(
            o3d.core.Tensor(vertices.astype(np.float32)),
            o3d.core.Tensor(triangles.astype(np.uint32)),
        )

    def view(self, K: Array, world_to_camera: Array, height: int, width: int) -> Array:
        """Depth (H, W) float32 metres along z, 0 where no ray hits.

        Open3D's rays of a pinhole camera advance by one metre of z in each unit of ``t_hit``.
        """
        o3d = open3d()
        intrinsics, pose = o3d.core.Tensor(K), o3d.core.Tensor(world_to_camera)
        rays = self._scene.create_rays_pinhole(intrinsics, pose, width, height)
        distance = self._scene.cast_rays(rays)["t_hit"].numpy()
        return np.where(np.isfinite(distance), distance, np.float32(0))
