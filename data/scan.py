"""What every dataset reader returns: a scan as it lies on disk, not yet prepared."""

from __future__ import annotations

from dataclasses import dataclass

from data.types import Array, GroundTruth, PointCloud, View


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan's mesh, its annotation and its posed images, in the mesh's world frame.

    ``triangles`` (F, 3) int32 index the cloud's points (the mesh's vertices); ``segment_ids``
    (N,) int64 is the dataset's own over-segmentation (often one segment a vertex); ``views``
    are sorted by ``view_id``. ``annotation_sha256`` is that of the file the objects stand in,
    by which versions of a dataset are told apart; "" where a dataset has none.
    """

    scene_id: str
    cloud: PointCloud
    triangles: Array
    segment_ids: Array
    views: tuple[View, ...]
    truth: GroundTruth
    annotation_sha256: str = ""
