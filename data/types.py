"""Define the types of all stages: cameras, views, point clouds, scans, scenes, prompts, splits.

Conventions of the whole project:

- lengths in metres; the world frame is the mesh's (right-handed, z up);
- ``world_to_camera`` (4, 4) float64, OpenCV axes: x right, y down, z forward;
- continuous pixel coordinates as COLMAP has them: the centre of the top-left pixel is
  (0.5, 0.5), so the pixel under ``uv`` is ``floor(uv)``;
- image sizes are always (height, width).

Ground truth has separate types (``GroundTruth``, ``PromptTruth``): a stage that must not see
labels takes only ``Scene`` and ``Prompt``, which hold none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Planning imports these types without arrays; only the functions that compute import NumPy.
Array: TypeAlias = "NDArray[Any]"
CameraModel = Literal["PINHOLE", "OPENCV_FISHEYE"]
NUM_DISTORTION: dict[str, int] = {"PINHOLE": 0, "OPENCV_FISHEYE": 4}
_UNDISTORTED = ("OPENCV_FISHEYE", "PINHOLE")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, eq=False)
class Camera:
    """A camera's model, intrinsics and image size.

    ``K`` is (3, 3) float64 in pixels at resolution (``height``, ``width``); ``distortion`` is
    empty for PINHOLE and (k1, k2, k3, k4) for OPENCV_FISHEYE (Kannala-Brandt, as OpenCV).
    """

    model: CameraModel
    K: Array
    height: int
    width: int
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError for impossible sizes or intrinsics, or a wrong number of parameters."""
        import numpy as np

        _require(self.model in NUM_DISTORTION, f"unknown camera model {self.model!r}")
        _require(self.K.shape == (3, 3), f"K must be (3, 3), got {self.K.shape}")
        _require(bool(np.isfinite(self.K).all()), "K holds a value that is not finite")
        _require(self.K[0, 0] > 0 and self.K[1, 1] > 0, "focal lengths must be positive")
        _require(self.height > 0 and self.width > 0, "image size must be positive")
        num_values = NUM_DISTORTION[self.model]
        _require(
            len(self.distortion) == num_values,
            f"{self.model} takes {num_values} distortion values, got {len(self.distortion)}",
        )

    def scaled(self, height: int, width: int) -> Camera:
        """Return the same camera at another resolution; lens and field of view stay the same."""
        import numpy as np

        scale = np.diag([width / self.width, height / self.height, 1.0])
        return Camera(self.model, scale @ self.K, height, width, self.distortion)


@dataclass(frozen=True, eq=False)
class View:
    """One posed image; ``world_to_camera`` (4, 4) float64, metres, OpenCV axes.

    ``camera`` is the camera of the image that stages see. ``lens`` is the fisheye camera that
    took the image, where ``camera`` is the pinhole of the undistorted image; with
    ``is_distorted`` the image file is still distorted and must be undistorted when it is read.
    ``mask_path`` is an optional mask in the image file's pixels, 255 = valid.
    """

    view_id: str
    camera: Camera
    world_to_camera: Array
    image_path: Path
    lens: Camera | None = None
    is_distorted: bool = False
    mask_path: Path | None = None

    def __post_init__(self) -> None:
        """Raise ValueError unless the pose is a finite rigid transform and the lens a fisheye."""
        import numpy as np

        fits = self.lens is None or (self.lens.model, self.camera.model) == _UNDISTORTED
        _require(fits, f"{self.view_id}: a fisheye lens goes with a pinhole camera")
        message = f"{self.view_id}: a distorted image needs its lens"
        _require(not self.is_distorted or self.lens is not None, message)
        pose = self.world_to_camera
        _require(pose.shape == (4, 4), f"{self.view_id}: pose must be (4, 4), got {pose.shape}")
        _require(bool(np.isfinite(pose).all()), f"{self.view_id}: pose is not finite")
        rotation = pose[:3, :3]
        rigid = np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-4)
        _require(bool(rigid), f"{self.view_id}: the pose's rotation is not orthonormal")

    @property
    def file_camera(self) -> Camera:
        """The camera of the image and mask files: the lens while they are distorted."""
        return self.lens if self.lens is not None and self.is_distorted else self.camera

    @property
    def camera_center(self) -> Array:
        """The camera's position (3,) float64, metres, world frame."""
        import numpy as np

        rotation, translation = self.world_to_camera[:3, :3], self.world_to_camera[:3, 3]
        return np.asarray(-rotation.T @ translation)


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Mesh vertices: ``points`` (N, 3) float32 m, ``colors`` (N, 3) uint8 RGB, ``normals`` (N, 3).

    Normals are float32 of unit length.
    """

    points: Array
    colors: Array
    normals: Array

    def __post_init__(self) -> None:
        """Raise ValueError when shapes or types do not fit each other."""
        shape = (len(self.points), 3)
        for name, dtype in (("points", "float32"), ("colors", "uint8"), ("normals", "float32")):
            array = getattr(self, name)
            _require(array.shape == shape, f"{name} must be {shape}, got {array.shape}")
            _require(array.dtype == dtype, f"{name} must be {dtype}, got {array.dtype}")

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.points)


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Touching superpoints: ``pairs`` (P, 2) int32, first < second, sorted; each pair once.

    ``affinity`` (P,) float32 in [0, 1] estimates how likely both superpoints belong to one
    object (``data.geometry.superpoints``).
    """

    pairs: Array
    affinity: Array
    num_superpoints: int


@dataclass(frozen=True, eq=False)
class Scene:
    """A prepared scan without any label.

    ``triangles`` (F, 3) int32 index the points; ``superpoint_ids`` (N,) int32 are 0..S-1;
    ``depths[i]`` is view i's depth, (H, W) float32 metres, 0 where no surface was hit. Depth is
    read on access, so a scene of many views needs little memory. ``neighbours`` is None where
    they were not computed yet (``data.geometry.superpoints.neighbours_of``).
    """

    scene_id: str
    cloud: PointCloud
    triangles: Array
    superpoint_ids: Array
    views: tuple[View, ...]
    depths: Sequence[Array]
    neighbours: Neighbours | None = None

    def __post_init__(self) -> None:
        """Raise ValueError when the parts do not belong to one scan."""
        num_points = len(self.cloud)
        _require(self.superpoint_ids.shape == (num_points,), "one superpoint id per point")
        _require(len(self.depths) == len(self.views), "one depth map per view")


def _no_ids() -> Array:
    import numpy as np

    return np.zeros(0, np.int32)


@dataclass(frozen=True)
class SurfaceTruth:
    """What a scan holds of the true surface, where that is known.

    ``coverage`` is the share, by area, of the surface that a camera in the room's free space can
    see within 5 cm of which the scan has a point. ``median_error`` and ``error_90`` are the median
    and the 90th percentile of the distances of the scan's points to the true surface, metres.
    """

    coverage: float
    median_error: float
    error_90: float


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Annotated objects of a scene as lists of points; objects may overlap.

    Object k has dataset id ``object_ids[k]``, raw class ``labels[k]`` and the points
    ``point_ids[offsets[k]:offsets[k + 1]]`` (int32, sorted). ``ignored_ids`` (n,) int32 are the
    points that the dataset excludes from evaluation. ``surface`` is None where the true surface is
    unknown, as in every real scan.
    """

    object_ids: tuple[int, ...]
    labels: tuple[str, ...]
    point_ids: Array
    offsets: Array
    num_points: int
    ignored_ids: Array = field(default_factory=_no_ids)
    surface: SurfaceTruth | None = None

    def points_of(self, object_id: int) -> Array:
        """Point ids (n,) int32 of one object; KeyError when the scene has no such object."""
        import numpy as np

        if object_id not in self.object_ids:
            raise KeyError(object_id)
        k = self.object_ids.index(object_id)
        return np.asarray(self.point_ids[self.offsets[k] : self.offsets[k + 1]])

    def mask(self, object_ids: Sequence[int]) -> Array:
        """(N,) bool: the union of the objects' points; all False for an empty list."""
        import numpy as np

        mask = np.zeros(self.num_points, bool)
        for object_id in object_ids:
            mask[self.points_of(object_id)] = True
        return mask

    @cached_property
    def left_out(self) -> Array:
        """(n,) int32, sorted: the points that evaluation excludes, each once."""
        import numpy as np

        return np.unique(np.asarray(self.ignored_ids, np.int32))

    def counted_points(self, object_ids: Sequence[int]) -> Array:
        """(n,) ids of the objects' points that evaluation counts, each once, in any order."""
        import numpy as np

        taken = np.zeros(self.num_points, bool)
        taken[self.ignored_ids] = True
        parts = [np.zeros(0, np.int32)]
        for object_id in object_ids:
            points = self.points_of(object_id)
            if (np.diff(points) <= 0).any():
                points = np.unique(points)
            points = points[~taken[points]]
            taken[points] = True
            parts.append(points)
        return np.concatenate(parts)

    def counted(self, mask: Array) -> Array:
        """Return a mask (N,) with the points that evaluation excludes set to False.

        Raises ValueError for a mask of another length.
        """
        shape = (self.num_points,)
        _require(mask.shape == shape, f"expected a mask of shape {shape}, got {mask.shape}")
        counted = mask.copy()
        counted[self.ignored_ids] = False
        return counted


@dataclass(frozen=True)
class Prompt:
    """One query as the teacher and the student see it: words, no label."""

    prompt_id: str
    scene_id: str
    text: str
    task: str


@dataclass(frozen=True)
class PromptTruth:
    """The target of a query, for evaluation and oracles only; no ids: the object is absent.

    ``answers`` are the correct answers in words, any of which counts as correct; empty where
    answers in words are not scored. ``scene_id`` is the room that a search
    (``data.queries.hierarchical_search``) means, "" for any other query.
    """

    prompt_id: str
    object_ids: tuple[int, ...]
    object_name: str
    answers: tuple[str, ...] = ()
    scene_id: str = ""


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan's mesh, its annotation and its posed images, in the mesh's world frame.

    ``triangles`` (F, 3) int32 index the cloud's points (the mesh's vertices); ``segment_ids``
    (N,) int64 is the dataset's over-segmentation (often one segment a vertex); ``views`` are
    sorted by ``view_id``. ``annotation_sha256`` is the SHA-256 of the annotation file, by which
    versions of a dataset are distinguished; "" where a dataset has no such file.
    """

    scene_id: str
    cloud: PointCloud
    triangles: Array
    segment_ids: Array
    views: tuple[View, ...]
    truth: GroundTruth
    annotation_sha256: str = ""


Split = Literal["train", "val", "tune"]
SPLITS: tuple[Split, ...] = ("train", "val", "tune")
"""``train`` is for training without labels; ``tune``, which may be empty, for choosing settings;
``val`` is for measuring only.
"""


Progress = Callable[[int, int], None]
"""``progress(done, total)``, called after every step."""


def silent(done: int, total: int) -> None:
    """Show nothing."""
