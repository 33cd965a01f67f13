"""Read and write scenes: ``scene.h5`` with a scan's geometry, its views and its labels.

``read_scene`` never opens the ``ground_truth`` group; only ``read_ground_truth`` does. Paths of
images and masks are stored relative to the dataset's folder, which may move between two runs.

After a failed write, HDF5 fails again for everything it closes and may crash the process. The
file object that it writes to therefore never fails: bytes that the disk did not take stay in
memory, and the error is raised at the end (``create_hdf``).
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data.artifacts.store import require_complete
from data.errors import ArtifactError
from data.types import (
    Array,
    Camera,
    GroundTruth,
    Neighbours,
    PointCloud,
    Scene,
    SurfaceTruth,
    View,
)

_PACKED = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
"""How arrays are compressed: the same values always give the same bytes, as LZF's need not."""


class _DeferredErrorFile(io.RawIOBase):
    """A file whose writes never raise; ``error`` is the first error of the disk, if any."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._stream = open(path, "w+b", buffering=0)
        self._kept: list[tuple[int, bytes]] = []
        self.error: OSError | None = None

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._stream.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def write(self, data: Any) -> int:
        content, start = bytes(data), self._stream.tell()
        if self.error is None:
            try:
                num_written = 0
                while num_written < len(content):
                    num_written += self._stream.write(content[num_written:])
                return len(content)
            except OSError as error:
                self.error = error
        self._kept.append((start, content))
        self._stream.seek(start + len(content))
        return len(content)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        start = self._stream.tell()
        num_read = self._stream.readinto(view)
        view[num_read:] = bytes(len(view) - num_read)
        for offset, content in self._kept:
            first, last = max(offset, start), min(offset + len(content), start + len(view))
            if first < last:
                view[first - start : last - start] = content[first - offset : last - offset]
        self._stream.seek(start + len(view))
        return len(view)

    def close(self) -> None:
        self._stream.close()
        super().close()


@contextmanager
def create_hdf(path: Path) -> Iterator[h5py.File]:
    """Yield a new HDF5 file to fill; raise OSError at the end if a write to the disk failed."""
    stream = _DeferredErrorFile(path)
    try:
        with h5py.File(stream, "w") as file:
            yield file
    finally:
        stream.close()
    if stream.error is not None:
        raise stream.error


FILE = "scene.h5"
_NEIGHBOURS = ("pairs", "affinity")
_REMEDY = "Run PrepareScene again."


class _Depths(Sequence[Array]):
    """Depth maps, read from the file one at a time: uint16 mm on disk, float32 m in memory."""

    def __init__(self, path: Path, count: int) -> None:
        self._path, self._count = path, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int | slice) -> Array:  # type: ignore[override]
        if isinstance(index, slice):
            raise TypeError("depth maps are read one at a time")
        if not 0 <= index < self._count:
            raise IndexError(index)
        with h5py.File(self._path) as file:
            depth = file[f"views/{index:04d}/depth"][...]
        return np.asarray(depth / np.float32(1000))


def write_scene(
    folder: Path,
    cloud: PointCloud,
    triangles: Array,
    superpoint_ids: Array,
    views: Sequence[View],
    depths: Iterable[Array],
    truth: GroundTruth,
    scene_id: str,
    image_root: Path = Path(),
    annotation_sha256: str = "",
    neighbours: Neighbours | None = None,
) -> None:
    """Write ``scene.h5``; ``depths`` (H, W) are float32 metres, consumed one at a time.

    Paths of images and masks are stored relative to ``image_root`` (by default the working
    folder). ``annotation_sha256`` identifies the version of the labels.
    """
    with create_hdf(folder / FILE) as file:
        file.attrs["scene_id"] = scene_id
        file.attrs["num_views"] = len(views)
        for name, array in (
            ("points", cloud.points),
            ("colors", cloud.colors),
            ("normals", cloud.normals),
            ("triangles", triangles.astype(np.int32)),
            ("superpoint_ids", superpoint_ids.astype(np.int32)),
        ):
            file.create_dataset(name, data=array, **_PACKED)
        if neighbours is not None:
            for name in _NEIGHBOURS:
                file.create_dataset(name, data=getattr(neighbours, name), **_PACKED)
        for index, (view, depth) in enumerate(zip(views, depths, strict=True)):
            group = file.create_group(f"views/{index:04d}")
            _write_view(group, view, depth, image_root)
        group = file.create_group("ground_truth")
        group["object_ids"] = np.asarray(truth.object_ids, np.int64)
        group["labels"] = np.asarray(truth.labels, dtype=h5py.string_dtype())
        group["point_ids"] = truth.point_ids.astype(np.int32)
        group["offsets"] = truth.offsets.astype(np.int64)
        group["ignored_ids"] = truth.ignored_ids.astype(np.int32)
        group.attrs["annotation_sha256"] = annotation_sha256
        if truth.surface is not None:
            group["surface"] = np.array(astuple(truth.surface), np.float64)


def _write_view(group: h5py.Group, view: View, depth: Array, image_root: Path) -> None:
    group.attrs["view_id"] = view.view_id
    group.attrs["image_path"] = os.path.relpath(view.image_path, image_root)
    if view.mask_path is not None:
        group.attrs["mask_path"] = os.path.relpath(view.mask_path, image_root)
    _write_camera(group, view.camera)
    if view.lens is not None:
        lens = group.create_group("lens")
        _write_camera(lens, view.lens)
        lens.attrs["is_distorted"] = view.is_distorted
    group["world_to_camera"] = view.world_to_camera
    millimetres = np.clip(np.rint(depth * 1000), 0, 65535).astype(np.uint16)
    group.create_dataset("depth", data=millimetres, **_PACKED)


def _write_camera(group: h5py.Group, camera: Camera) -> None:
    group.attrs["model"] = camera.model
    group.attrs["size"] = (camera.height, camera.width)
    group.attrs["distortion"] = np.asarray(camera.distortion, np.float64)
    group["K"] = camera.K


def _read_view(group: h5py.Group, image_root: Path) -> View:
    attrs, lens = group.attrs, group.get("lens")
    return View(
        attrs["view_id"],
        _read_camera(group),
        group["world_to_camera"][...],
        image_root / attrs["image_path"],
        None if lens is None else _read_camera(lens),
        lens is not None and bool(lens.attrs["is_distorted"]),
        image_root / attrs["mask_path"] if "mask_path" in attrs else None,
    )


def _read_camera(group: h5py.Group) -> Camera:
    height, width = (int(size) for size in group.attrs["size"])
    distortion = tuple(float(value) for value in group.attrs["distortion"])
    return Camera(group.attrs["model"], group["K"][...], height, width, distortion)


def read_scene(folder: Path, image_root: Path = Path()) -> Scene:
    """Read the scene without its labels; ``image_root`` is the dataset's present folder.

    Raises ArtifactError when the artifact cannot be read.
    """
    require_complete(folder, _REMEDY)
    path = folder / FILE
    try:
        with h5py.File(path) as file:
            views = tuple(_views(file, image_root))
            superpoint_ids = file["superpoint_ids"][...]
            return Scene(
                str(file.attrs["scene_id"]),
                PointCloud(file["points"][...], file["colors"][...], file["normals"][...]),
                file["triangles"][...],
                superpoint_ids,
                views,
                _Depths(path, len(views)),
                _neighbours(file, superpoint_ids),
            )
    except (OSError, KeyError, ValueError) as error:
        raise ArtifactError(path, "a scene of this schema", str(error), _REMEDY) from error


def _neighbours(file: h5py.File, superpoint_ids: Array) -> Neighbours | None:
    if _NEIGHBOURS[0] not in file:
        return None
    pairs, affinity = (file[name][...] for name in _NEIGHBOURS)
    return Neighbours(pairs, affinity, int(superpoint_ids.max(initial=-1)) + 1)


def _views(file: h5py.File, image_root: Path) -> Iterator[View]:
    for index in range(int(file.attrs["num_views"])):
        yield _read_view(file[f"views/{index:04d}"], image_root)


def read_ground_truth(folder: Path) -> GroundTruth:
    """Read the labels of a scene; for evaluation, oracles and fine-tuning only.

    Raises ArtifactError when the artifact cannot be read.
    """
    require_complete(folder, _REMEDY)
    path = folder / FILE
    try:
        with h5py.File(path) as file:
            group = file["ground_truth"]
            return GroundTruth(
                tuple(int(value) for value in group["object_ids"][...]),
                tuple(value.decode() for value in group["labels"][...]),
                group["point_ids"][...],
                group["offsets"][...],
                len(file["points"]),
                group["ignored_ids"][...],
                SurfaceTruth(*group["surface"][...].tolist()) if "surface" in group else None,
            )
    except (OSError, KeyError, ValueError) as error:
        raise ArtifactError(path, "a scene of this schema", str(error), _REMEDY) from error
