"""Instance masks of a scene's views, rendered from ground truth at low resolution."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csc_array

from data.raycast import Raycaster
from data.types import Array, GroundTruth, Scene
from models.teacher import MaskGrid


class InstanceRenderer:
    """Low-resolution instance masks of a scene's views, by casting a ray through every cell.

    An object owns a cell when the first vertex of the triangle it hits belongs to the object;
    objects overlap, so a cell of the pillow is a cell of the bed as well.
    """

    def __init__(self, scene: Scene, truth: GroundTruth, stride: int) -> None:
        self._views = {view.view_id: view for view in scene.views}
        self._triangles = scene.triangles
        self._caster = Raycaster(scene.cloud.points, scene.triangles)
        lengths = np.diff(truth.offsets)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        shape = (len(truth.object_ids), len(scene.cloud))
        ones = np.ones(len(rows), bool)
        self._members = csc_array((ones, (rows, truth.point_ids)), shape=shape)
        camera = scene.views[0].camera
        height, width = max(camera.height // stride, 1), max(camera.width // stride, 1)
        self.grid = MaskGrid(height, width, (float(width), float(height)))

    def masks(self, view_id: str) -> Array:
        """(K, h, w) bool; KeyError for a view that the scene does not have."""
        view = self._views[view_id]
        camera = view.camera.scaled(self.grid.height, self.grid.width)
        triangle_ids = self._caster.render(camera, view.world_to_camera)[1].ravel()
        hit = np.flatnonzero(triangle_ids >= 0)
        vertices = self._triangles[triangle_ids[hit], 0]
        masks = np.zeros((self._members.shape[0], len(triangle_ids)), bool)
        masks[:, hit] = self._members[:, vertices].toarray()
        return masks.reshape(-1, self.grid.height, self.grid.width)
