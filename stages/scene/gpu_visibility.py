"""The visibility test of ``data.geometry.visibility`` in torch, for points in GPU memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from data.geometry.cameras import lens_end
from data.geometry.visibility import Tolerance, check_size
from data.types import Array, Camera


class GpuVisibility:
    """Finds the points of one cloud that views see, on a torch device.

    Every point is tested for every view, because on a GPU that is faster than selecting blocks
    first. Coordinates are float64 and summed in the order of the compiled test, so that pixels
    round alike.
    """

    def __init__(self, points: Array, device: str) -> None:
        """Keep ``points`` (N, 3) metres in the world on ``device``, 24 bytes per point."""
        world = torch.from_numpy(np.ascontiguousarray(points.T)).to(device).double()
        self._finite = torch.isfinite(world).all(dim=0)
        self._x, self._y, self._z = world
        self._device = device

    def visible_points(
        self,
        camera: Camera,
        world_to_camera: Array,
        depth: Array,
        tolerance: Tolerance,
        valid: Array | None = None,
    ) -> tuple[Array, Array]:
        """Return the same as ``Visibility.visible_points`` on the CPU, with the same errors."""
        check_size("depth", depth, camera)
        if valid is not None:
            check_size("valid", valid, camera)
        x, y, z = (
            float(row[0]) * self._x
            + float(row[1]) * self._y
            + float(row[2]) * self._z
            + float(row[3])
            for row in world_to_camera[:3]
        )
        ids = torch.nonzero((z > tolerance.near) & self._finite)[:, 0]
        z = z[ids]
        a, b = x[ids] / z, y[ids] / z
        if camera.model == "OPENCV_FISHEYE":
            a, b = _bend(a, b, camera.distortion)
        K = camera.K
        u = (float(K[0, 0]) * a + float(K[0, 2])).float()
        v = (float(K[1, 1]) * b + float(K[1, 2])).float()
        inside = torch.nonzero((u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height))[:, 0]
        ids, u, v, z = ids[inside], u[inside], v[inside], z[inside]
        pixels = v.long() * camera.width + u.long()
        surface = self._image(depth.astype(np.float32, copy=False))[pixels].double()
        allowed = torch.clamp(tolerance.relative * z, min=tolerance.absolute)
        seen = (surface > 0) & ((surface - z).abs() <= allowed)
        if valid is not None:
            seen &= self._image(valid)[pixels]
        uv = torch.stack([u[seen], v[seen]], dim=1)
        return ids[seen].int().cpu().numpy(), uv.cpu().numpy()

    def _image(self, image: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(image)).to(self._device).reshape(-1)


def _bend(a: Tensor, b: Tensor, distortion: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Apply a fisheye's distortion; NaN beyond the end of the lens."""
    k1, k2, k3, k4 = distortion
    r = torch.hypot(a, b)
    theta = torch.arctan(r)
    square = theta * theta
    factor = 1 + square * (k1 + square * (k2 + square * (k3 + square * k4)))
    bend = torch.where(r > 1e-9, theta * factor / r, 1.0)
    bend = torch.where(theta <= lens_end(distortion), bend, torch.nan)
    return a * bend, b * bend
