"""Define the paths of a user's RGB-D scan.

    <scan>/color/<name>.jpg    images, jpg or png
    <scan>/depth/<name>.png    uint16 millimetres, 0 = none, registered to the image
    <scan>/pose/<name>.txt     4 x 4 camera-to-world, metres, OpenCV axes
    <scan>/intrinsics.txt      3 x 3 or 4 x 4, of the images
    <scan>/mesh.ply            optional: without it the depth images are fused into a mesh

The root is a scan itself, or a folder of scans.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError
from data.jsonio import read_text
from data.readers.source_identity import identity_of

REMEDY = "README, 'Your own scan', shows the folder."
ALL_SCANS = "all"
_NAME = re.compile(r"[0-9a-zA-Z_][0-9a-zA-Z_.-]*")


def check_name(name: str, source: Path, what: str) -> str:
    """Return ``name`` if it is a safe file name; otherwise raise DataError naming ``source``."""
    if not _NAME.fullmatch(name):
        expected = f"{what} of letters, digits, '_', '-' and '.', not starting with '-' or '.'"
        raise DataError(source, expected, repr(name[:80]), "Rename it.")
    return name


@dataclass(frozen=True)
class ScanPaths:
    """Paths of one scan's files."""

    folder: Path

    @classmethod
    def find(cls, root: Path, scene_id: str) -> ScanPaths:
        """Make the paths of a scan; DataError for a missing folder or an unsafe name."""
        paths = cls(_folder(root, check_name(scene_id, root, "a scan's name")))
        if not paths.folder.is_dir():
            raise DataError(paths.folder, "the folder of a scan", "no such folder", REMEDY)
        return paths

    @property
    def depth(self) -> Path:
        """Folder of depth images."""
        return self.folder / "depth"

    @property
    def intrinsics(self) -> Path:
        """Intrinsics of the colour images."""
        return self.folder / "intrinsics.txt"

    @property
    def mesh(self) -> Path:
        """Coloured triangle mesh; may be missing."""
        return self.folder / "mesh.ply"


def _is_scan(folder: Path) -> bool:
    return (folder / "color").is_dir()


def _folder(root: Path, scene_id: str) -> Path:
    return root if _is_scan(root) and root.resolve().name == scene_id else root / scene_id


def read_split(root: Path, split_name: str) -> list[str]:
    """Return the names of a split's scans: all scans for "all", else those of ``<name>.txt``.

    Raises:
        DataError: the root is neither a scan nor a folder of scans, a name is unsafe, or the
            list is missing, empty, or names a scan twice.
    """
    if split_name != ALL_SCANS:
        return _listed(root / f"{check_name(split_name, root, 'a split')}.txt")
    if _is_scan(root):
        return [check_name(root.resolve().name, root, "a scan's name")]
    if not root.is_dir():
        raise DataError(root, "a scan, or a folder of scans", "no such folder", REMEDY)
    names = sorted(path.name for path in root.iterdir() if _is_scan(path))
    if not names:
        expected = "a scan (a folder with color/ in it), or a folder of scans"
        raise DataError(root, expected, "none", REMEDY)
    return [check_name(name, root, "a scan's name") for name in names]


def _listed(path: Path) -> list[str]:
    remedy = f"Give a file with one scan's name a line, or split {ALL_SCANS!r} for every scan."
    lines = read_text(path, "a list of scans", remedy).splitlines()
    names = [check_name(line.strip(), path, "a scan's name") for line in lines if line.strip()]
    if len(set(names)) < len(names):
        raise DataError(path, "each scan once", f"{len(names)} names", remedy)
    return names


def scene_identity(root: Path, scene_id: str, camera: str) -> str:
    """Hash a scan's source files for fingerprints: SHA-256, 64 hex digits.

    See ``source_identity.identity_of``. Depth images are included if there is no mesh. ``camera``
    is ignored. A missing file raises no error.
    """
    paths = ScanPaths(_folder(root, scene_id))
    folders = [paths.folder / "color", paths.folder / "pose"]
    if not paths.mesh.exists():
        folders.append(paths.depth)
    return identity_of(paths.folder, (paths.mesh, paths.intrinsics), (), folders)
