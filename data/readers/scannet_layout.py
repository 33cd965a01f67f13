"""Define the paths of ScanNet v2's files.

    <root>/scans/<id>/  <id>_vh_clean_2.ply  <id>_vh_clean_2.0.010000.segs.json
                        <id>.aggregation.json  <id>.txt (may be missing)
                        color/<n>.jpg  pose/<n>.txt  intrinsic/intrinsic_color.txt
    <root>/scannet_frames_25k/<id>/  color/<nnnnnn>.jpg  pose/<nnnnnn>.txt  intrinsics_color.txt
    <root>/splits/<name>.txt or <root>/scannetv2_<name>.txt   one scene id per line

The user may give ``<root>`` or ``<root>/scans``. Frames beside the mesh, which are exported from
``<id>.sens``, take precedence over those of ``scannet_frames_25k``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError
from data.readers.scannetpp_layout import check_id, read_scene_list
from data.readers.source_identity import identity_of

SCENE_REMEDY = "Download this file again with ScanNet's download script."
FRAMES_REMEDY = "Export the frames again: python -m pipeline extract-sens."
_FRAMES_25K = "scannet_frames_25k"


def split_root(root: Path) -> tuple[Path, Path]:
    """Return (folder of scans, dataset root) for either form of root; DataError if missing."""
    if not root.is_dir():
        remedy = "Set the data folder of the scene set to ScanNet's root."
        raise DataError(root, "ScanNet's root folder", "no such folder", remedy)
    return _split(root)


def _split(root: Path) -> tuple[Path, Path]:
    return (root / "scans", root) if (root / "scans").is_dir() else (root, root.parent)


def read_split(root: Path, split_name: str) -> list[str]:
    """Read the scene ids of a split, in the file's order.

    The file is ``splits/<split_name>.txt`` or, failing that, ``<split_name>.txt`` or
    ``scannetv2_<split_name>.txt`` (ScanNet's official lists) in the root.

    Raises:
        DataError: missing or empty file, an id twice, or an id with other characters than
            letters, digits and underscores.
    """
    base, name = split_root(root)[1], check_id(split_name, root, "a split")
    own = base / "splits" / f"{name}.txt"
    official = (base / f"{name}.txt", base / f"scannetv2_{name}.txt")
    path = next((path for path in (own, *official) if path.is_file()), own)
    return read_scene_list(path)


@dataclass(frozen=True)
class ScenePaths:
    """Paths of one scene's files."""

    scans: Path
    root: Path
    scene_id: str

    @classmethod
    def find(cls, root: Path, scene_id: str) -> ScenePaths:
        """Make the paths of a scene; DataError for a missing folder or an unsafe name."""
        paths = cls(*split_root(root), check_id(scene_id, root, "a scene id"))
        if not paths.folder.is_dir():
            remedy = "Download the scene, or take its id out of the split."
            raise DataError(paths.folder, "a scene folder", "no such folder", remedy)
        return paths

    @property
    def folder(self) -> Path:
        """Folder of the scene's mesh and annotation."""
        return self.scans / self.scene_id

    def _named(self, ending: str) -> Path:
        return self.folder / f"{self.scene_id}{ending}"

    @property
    def mesh(self) -> Path:
        """Coloured triangle mesh: the decimated mesh, which is annotated."""
        return self._named("_vh_clean_2.ply")

    @property
    def segments(self) -> Path:
        """Segment id of every vertex of ``mesh``."""
        return self._named("_vh_clean_2.0.010000.segs.json")

    @property
    def aggregation(self) -> Path:
        """Annotated groups of segments of ``mesh``."""
        return self._named(".aggregation.json")

    @property
    def info(self) -> Path:
        """Parameters of the scanner and the axis alignment; may be missing."""
        return self._named(".txt")

    @property
    def sens(self) -> Path:
        """The recorded stream, from which frames are exported."""
        return self._named(".sens")

    @property
    def frames(self) -> Path:
        """Folder with ``color`` and ``pose``."""
        other = self.root / _FRAMES_25K / self.scene_id
        has_other = not (self.folder / "color").is_dir() and (other / "color").is_dir()
        return other if has_other else self.folder

    @property
    def intrinsics(self) -> Path:
        """Intrinsics of the colour images, as exported or as in ``scannet_frames_25k``."""
        flat = self.frames / "intrinsics_color.txt"
        return flat if flat.is_file() else self.frames / "intrinsic" / "intrinsic_color.txt"

    def files(self) -> tuple[Path, ...]:
        """Return every file that the reader opens, without images and poses."""
        return (self.mesh, self.segments, self.aggregation, self.info, self.intrinsics)


def scene_identity(root: Path, scene_id: str, camera: str) -> str:
    """Hash a scene's source files for fingerprints: SHA-256, 64 hex digits.

    The hash covers the aggregation file's content, and name, size and time of images and poses
    (``source_identity.identity_of``). ``camera`` is ignored. A missing file raises no error.
    """
    scans, base = _split(root)
    paths = ScenePaths(scans, base, scene_id)
    folders = (paths.frames / "color", paths.frames / "pose")
    return identity_of(base, paths.files(), (paths.aggregation,), folders)
