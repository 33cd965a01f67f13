"""Files that other projects wrote with ``torch.save``: arrays, text and numbers, no code.

Whatever a file asks to be run while it is loaded is refused. NumPy arrays are let through, under
the names their parts have now and had before NumPy 2.
"""

from __future__ import annotations

import codecs
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import DataError

_UNSAFE = (
    "Files are opened without running code that may be in them; if you made this one and trust"
    " it, load it with torch.load(weights_only=False) and save its arrays as tensors."
)


def load_arrays(path: Path, expected: str, remedy: str) -> Any:
    """What a file holds, on the CPU.

    Args:
        path: the file.
        expected: what it should be, for the error of a missing one.
        remedy: what to do about a wrong one.

    Raises:
        DataError: missing, cut or damaged file, or one with anything but arrays, tensors, text,
            numbers and containers of them.
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
        raise DataError(path, "a whole file saved by torch", found, remedy) from error


def _reason(error: pickle.UnpicklingError) -> str:
    """What torch found, out of its advice on how to load the file nevertheless."""
    text = str(error).split("Check the documentation")[0].split("trusted source.")[-1]
    return " ".join(text.split("WeightsUnpickler error:")[-1].split())[:160]


def _numpy_globals() -> list[Any]:
    from numpy._core import multiarray

    made = [multiarray._reconstruct, multiarray.scalar]
    old = [(function, f"numpy.core.multiarray.{function.__name__}") for function in made]
    dtypes = [type(np.dtype(code)) for code in "? i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8".split()]
    # The bytes of an array are stored as text that _codecs.encode turns back; of an empty one not.
    text = [bytes, (codecs.encode, "_codecs.encode")]
    return [*made, *old, np.ndarray, np.dtype, *dtypes, *text]
