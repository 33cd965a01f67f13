"""Define the paths of ScanNet++'s files.

    <root>/data/<scene_id>/scans/   mesh_aligned_0.05.ply  mesh_aligned_0.05_mask.txt
                                    segments.json  segments_anno.json
                                    scan_truth.json (generated rooms that were scanned only)
    <root>/data/<scene_id>/dslr/    colmap/{cameras,images}.txt
                                    nerfstudio/transforms[_undistorted].json
                                    resized_images/  resized_anon_masks/
                                    resized_undistorted_images/  resized_undistorted_masks/
    <root>/data/<scene_id>/iphone/  rgb.mkv  rgb/  rgb_masks/  pose_intrinsic_imu.json
    <root>/splits/<name>.txt        one scene id per line

The user may give ``<root>`` or ``<root>/data``, as in the ScanNet++ toolkit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.errors import DataError
from data.jsonio import read_text
from data.readers.source_identity import identity_of

CameraChoice = Literal["undistorted", "fisheye", "iphone"]
SCENE_REMEDY = "Download this scene again with the ScanNet++ toolkit."
_ID = re.compile(r"[0-9a-zA-Z_]+")
# Folders of images and of their masks.
_IPHONE = ("rgb", "rgb_masks")
_FISHEYE = ("resized_images", "resized_anon_masks")
_UNDISTORTED = (
    ("resized_undistorted_images", "resized_undistorted_masks"),
    ("undistorted_images", "undistorted_anon_masks"),
)


def check_id(name: str, source: Path, what: str) -> str:
    """Return ``name`` if it is a safe file name; otherwise raise DataError naming ``source``."""
    if not _ID.fullmatch(name):
        expected = f"{what} of letters, digits and underscores"
        raise DataError(source, expected, repr(name[:80]), "Correct the name.")
    return name


def split_root(root: Path) -> tuple[Path, Path]:
    """Return (data folder, dataset root) for either form of root; DataError if it is missing."""
    if not root.is_dir():
        remedy = "Set the data folder of the scene set to ScanNet++'s root."
        raise DataError(root, "ScanNet++'s root folder", "no such folder", remedy)
    if (root / "data").is_dir():
        return root / "data", root
    return root, root.parent


def read_split(root: Path, split_name: str) -> list[str]:
    """Read the scene ids of ``splits/<split_name>.txt``, in the file's order.

    Raises:
        DataError: missing or empty file, an id twice, or an id with other characters than
            letters, digits and underscores.
    """
    name = check_id(split_name, root, "a split")
    return read_scene_list(split_root(root)[1] / "splits" / f"{name}.txt")


def read_scene_list(path: Path) -> list[str]:
    """Read scene ids from a file, one per line; raises DataError as ``read_split`` does."""
    remedy = "Give a file with one scene id per line."
    lines = read_text(path, "a split file", remedy).splitlines()
    ids = [check_id(line.strip(), path, "a scene id") for line in lines if line.strip()]
    repeated = sorted({scene_id for scene_id in ids if ids.count(scene_id) > 1})
    if repeated:
        raise DataError(path, "each scene id once", f"{repeated[:5]} twice", remedy)
    return ids


@dataclass(frozen=True)
class ScenePaths:
    """Paths of one scene's files for one choice of camera."""

    folder: Path
    camera: CameraChoice

    @classmethod
    def find(cls, root: Path, scene_id: str, camera: CameraChoice) -> ScenePaths:
        """Make the paths of a scene; DataError for a missing folder or an unsafe name."""
        folder = split_root(root)[0] / check_id(scene_id, root, "a scene id")
        if not folder.is_dir():
            remedy = "Download the scene, or take its id out of the split."
            raise DataError(folder, "a scene folder", "no such folder", remedy)
        return cls(folder, camera)

    @property
    def mesh(self) -> Path:
        """Coloured triangle mesh."""
        return self.folder / "scans" / "mesh_aligned_0.05.ply"

    @property
    def mesh_mask(self) -> Path:
        """Vertices that evaluation excludes; may be empty or missing."""
        return self.folder / "scans" / "mesh_aligned_0.05_mask.txt"

    @property
    def segments(self) -> Path:
        """Segment id of every vertex."""
        return self.folder / "scans" / "segments.json"

    @property
    def annotation(self) -> Path:
        """Annotated groups of segments."""
        return self.folder / "scans" / "segments_anno.json"

    @property
    def scan_truth(self) -> Path:
        """What the scan holds of the true surface; only generated rooms have it."""
        return self.folder / "scans" / "scan_truth.json"

    @property
    def colmap_cameras(self) -> Path:
        """Intrinsics of the fisheye camera, whatever the choice of camera."""
        return self.folder / "dslr" / "colmap" / "cameras.txt"

    @property
    def colmap_images(self) -> Path:
        """Poses of all registered images."""
        return self.folder / "dslr" / "colmap" / "images.txt"

    @property
    def undistorts(self) -> bool:
        """Whether undistorted views must be computed, because the dataset's are incomplete."""
        transforms = self.device / "nerfstudio" / "transforms_undistorted.json"
        shipped = any((self.device / images).is_dir() for images, _ in _UNDISTORTED)
        return self.camera == "undistorted" and not (shipped and transforms.exists())

    @property
    def shows_fisheye(self) -> bool:
        """Whether the image files show the fisheye's images."""
        return self.camera == "fisheye" or self.undistorts

    @property
    def transforms(self) -> Path:
        """Nerfstudio file that describes the images."""
        suffix = "" if self.shows_fisheye else "_undistorted"
        return self.device / "nerfstudio" / f"transforms{suffix}.json"

    @property
    def images(self) -> Path:
        """Folder of the images; for undistorted images the toolkit's name is the second choice."""
        return self.device / self._folders()[0]

    @property
    def masks(self) -> Path:
        """Folder of the images' anonymisation masks; may be missing."""
        return self.device / self._folders()[1]

    @property
    def poses(self) -> Path:
        """Poses and intrinsics of the iPhone's frames."""
        return self.folder / "iphone" / "pose_intrinsic_imu.json"

    @property
    def video(self) -> Path:
        """The iPhone's video, from which frames are extracted."""
        return self.folder / "iphone" / "rgb.mkv"

    @property
    def device(self) -> Path:
        """Folder of the chosen camera's files."""
        return self.folder / ("iphone" if self.camera == "iphone" else "dslr")

    def _folders(self) -> tuple[str, str]:
        if self.camera == "iphone":
            return _IPHONE
        choices = (_FISHEYE,) if self.shows_fisheye else _UNDISTORTED
        existing = [names for names in choices if (self.device / names[0]).is_dir()]
        return (existing or choices)[0]

    def files(self) -> tuple[Path, ...]:
        """Return every file that the reader opens, without images and masks."""
        scan = [self.mesh, self.mesh_mask, self.segments, self.annotation]
        if self.scan_truth.exists():
            scan.append(self.scan_truth)
        if self.camera == "iphone":
            return (*scan, self.poses)
        return (*scan, self.colmap_cameras, self.colmap_images, self.transforms)


def scene_identity(root: Path, scene_id: str, camera: CameraChoice) -> str:
    """Hash a scene's source files for fingerprints: SHA-256, 64 hex digits.

    The hash covers the annotation's content, and name, size and time of images and masks
    (``source_identity.identity_of``). A missing file raises no error.
    """
    base = root / "data" if (root / "data").is_dir() else root
    paths = ScenePaths(base / scene_id, camera)
    return identity_of(base, paths.files(), (paths.annotation,), (paths.images, paths.masks))
