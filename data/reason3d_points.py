"""Reason3D's prepared point files, as far as its queries need them: classes and instances.

``<scene>_reason.pth`` and ``<scene>_refer.pth`` are tuples of (coordinates, colours, superpoints,
classes, instances) that its scripts write with ``torch.save``; of ``<house>_region<k>.pth`` there
are no instances.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import DataError
from data.torch_files import load_arrays
from data.types import Array

NO_CLASS, NO_INSTANCE = -100, -1
_PARTS = ("coordinates", "colours", "superpoints", "classes", "instances")
_REMEDY = "Prepare this scene again with Reason3D's script."


@dataclass(frozen=True, eq=False)
class LabelledPoints:
    """``classes`` (N,) int64, -100 = none; ``instances`` (N,) int64 group ids, -1 = none."""

    classes: Array
    instances: Array


def read_labelled_points(path: Path) -> LabelledPoints:
    """Classes and instances of one prepared scene.

    Raises:
        DataError: missing, cut or damaged file; not five arrays, one row a point each (files of
            test scenes and of Matterport3D have fewer); labels that are no whole numbers or are
            negative without meaning "none".
    """
    content = load_arrays(path, "a prepared scene", _REMEDY)
    expected = f"a tuple of {', '.join(_PARTS)}"
    if not isinstance(content, (tuple, list)) or len(content) != len(_PARTS):
        size = f" of {len(content)}" if isinstance(content, (tuple, list)) else ""
        raise DataError(path, expected, f"{type(content).__name__}{size}", _REMEDY)
    arrays = [_array(part, name, path) for part, name in zip(content, _PARTS)]
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1 or 0 in lengths:
        raise DataError(path, "as many rows in every part", str(sorted(lengths)), _REMEDY)
    classes = _labels(arrays[3], "classes", NO_CLASS, path)
    return LabelledPoints(classes, _labels(arrays[4], "instances", NO_INSTANCE, path))


def _array(part: Any, name: str, path: Path) -> Array:
    try:
        array = np.asarray(part)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(path, f"an array of {name}", str(error)[:120], _REMEDY) from error
    if array.ndim < 1 or array.dtype.kind not in "fiu":
        found = f"type {array.dtype} of {array.ndim} dimensions"
        raise DataError(path, f"numbers as {name}", found, _REMEDY)
    return array


def _labels(array: Array, name: str, none: int, path: Path) -> Array:
    """Whole numbers from 0 on, or ``none`` (classes may come as floats)."""
    if array.ndim != 1:
        raise DataError(path, f"one number a point as {name}", f"{array.shape}", _REMEDY)
    whole = np.isfinite(array) & (np.abs(array.astype(np.float64)) < 2**31)
    labels = np.where(whole, array, 0).astype(np.int64)
    whole &= labels == array
    if not whole.all():
        found = f"{int((~whole).sum())} that are not"
        raise DataError(path, f"whole numbers as {name}", found, _REMEDY)
    wrong = labels[(labels < 0) & (labels != none)]
    if len(wrong):
        found = f"{int(wrong[0])} (int8 makes this of {int(wrong[0]) % 256})"
        raise DataError(path, f"{name} from 0 on, or {none}", found, _REMEDY)
    return labels
