"""Read Reason3D's prepared point files (``torch.save``): classes and instances of points.

``<scene>_reason.pth`` and ``<scene>_refer.pth`` are tuples (coordinates, colours, superpoints,
classes, instances) that Reason3D's scripts write; ``<house>_region<k>.pth`` has no instances.

Files are loaded without running code from them. NumPy arrays are accepted, under the module names
of NumPy 2 and of earlier versions.
"""

from __future__ import annotations

import codecs
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import DataError
from data.types import Array

_UNSAFE = (
    "Files are opened without running code that may be in them; if you made this one and trust"
    " it, load it with torch.load(weights_only=False) and save its arrays as tensors."
)


def load_arrays(path: Path, expected: str, remedy: str) -> Any:
    """Load the content of a file saved by torch, onto the CPU.

    Args:
        path: the file.
        expected: description of the file, for the error of a missing file.
        remedy: advice for the user, for any error.

    Raises:
        DataError: missing, truncated or damaged file, or a file with anything but arrays,
            tensors, text, numbers and containers of them.
    """
    import torch

    if not path.is_file():
        raise DataError(path, expected, "no such file", remedy)
    try:
        with torch.serialization.safe_globals(_numpy_globals()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        only = "a file of arrays, text and numbers only"
        raise DataError(path, only, _reason(error), f"{remedy} {_UNSAFE}") from error
    except Exception as error:  # A damaged file fails anywhere inside of torch.
        found = f"{type(error).__name__}: {error}".split("\n")[0][:160]
        raise DataError(path, "a complete file saved by torch", found, remedy) from error


def _reason(error: pickle.UnpicklingError) -> str:
    """Return torch's error without its advice to load the file unsafely."""
    text = str(error).split("Check the documentation")[0].split("trusted source.")[-1]
    return " ".join(text.split("WeightsUnpickler error:")[-1].split())[:160]


def _numpy_globals() -> list[Any]:
    from numpy._core import multiarray

    functions = [multiarray._reconstruct, multiarray.scalar]
    old_names = [(function, f"numpy.core.multiarray.{function.__name__}") for function in functions]
    dtypes = [type(np.dtype(code)) for code in "? i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8".split()]
    # Arrays store their bytes as text for _codecs.encode, and empty arrays as bytes.
    text = [bytes, (codecs.encode, "_codecs.encode")]
    return [*functions, *old_names, np.ndarray, np.dtype, *dtypes, *text]


NO_CLASS, NO_INSTANCE = -100, -1
_PARTS = ("coordinates", "colours", "superpoints", "classes", "instances")
_REMEDY = "Prepare this scene again with Reason3D's script."


@dataclass(frozen=True, eq=False)
class LabelledPoints:
    """Labels of N points: ``classes`` (N,) int64, -100 = none, ``instances`` (N,) int64, -1 = none.

    An instance is the id of an annotation group.
    """

    classes: Array
    instances: Array


def read_labelled_points(path: Path) -> LabelledPoints:
    """Read the classes and instances of one prepared scene.

    Raises:
        DataError: missing, truncated or damaged file; not five arrays with one row a point (files
            of test scenes and of Matterport3D have fewer); labels that are no whole numbers, or
            negative labels other than "none".
    """
    content = load_arrays(path, "a prepared scene", _REMEDY)
    expected = f"a tuple of {', '.join(_PARTS)}"
    if not isinstance(content, (tuple, list)) or len(content) != len(_PARTS):
        size = f" of {len(content)}" if isinstance(content, (tuple, list)) else ""
        raise DataError(path, expected, f"{type(content).__name__}{size}", _REMEDY)
    arrays = [_array(part, name, path) for part, name in zip(content, _PARTS)]
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1 or 0 in lengths:
        expected = "the same number of rows, at least one, in every array"
        raise DataError(path, expected, str(sorted(lengths)), _REMEDY)
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
    """Convert labels (N,) to int64 from 0 on, or ``none``; classes may be stored as floats."""
    if array.ndim != 1:
        raise DataError(path, f"one number a point as {name}", f"{array.shape}", _REMEDY)
    is_whole = np.isfinite(array) & (np.abs(array.astype(np.float64)) < 2**31)
    labels = np.where(is_whole, array, 0).astype(np.int64)
    is_whole &= labels == array
    if not is_whole.all():
        found = f"{int((~is_whole).sum())} that are not"
        raise DataError(path, f"whole numbers as {name}", found, _REMEDY)
    wrong_labels = labels[(labels < 0) & (labels != none)]
    if len(wrong_labels):
        found = (
            f"{int(wrong_labels[0])} (a cast to int8 makes this of {int(wrong_labels[0]) % 256})"
        )
        raise DataError(path, f"{name} from 0 on, or {none}", found, _REMEDY)
    return labels
