"""A teacher's stored masks at the size of a picture."""

from __future__ import annotations

import numpy as np

from data.artifacts.teacher import TeacherCache
from data.mask_grid import cells_to_pixels
from data.types import Array


def mask_of(cache: TeacherCache, view: int, query: int, size: tuple[int, int]) -> Array:
    """(h, w) bool: the mask of one query on one view, by their indices, at ``size`` (h, w).

    Meaningful where the cache says that one is drawn; raises ArtifactError when it cannot be
    read.
    """
    logits = cache.mask_logits(view)[query : query + 1]
    extent = (float(cache.mask_extent[0]), float(cache.mask_extent[1]))
    return np.asarray(cells_to_pixels(logits, extent, size)[0] > 0)
