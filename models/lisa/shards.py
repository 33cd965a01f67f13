"""Weight files of a folder, ``.safetensors`` or ``.bin``, whole or in shards.

Tensors come memory mapped: what is not used is not read, and nothing is held twice.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from data.errors import DataError
from data.jsonio import read_json

_SINGLE = ("model.safetensors", "pytorch_model.bin")
_FETCH_AGAIN = "Fetch the file again, whole."


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; DataError unless there is one."""
    expected = "a JSON object"
    remedy = f"Is {path.parent} the folder of a model? Fetch the file again, whole."
    content = read_json(path, expected, remedy)
    if not isinstance(content, dict):
        raise DataError(path, expected, f"a {type(content).__name__}", remedy)
    return content


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder by key, on the CPU, as they are stored, memory mapped.

    Where there are both formats, safetensors is read. DataError for no weights at all, a shard
    that is missing or a file that cannot be read.
    """
    tensors: dict[str, Tensor] = {}
    for path in weight_files(folder):
        tensors.update(_read_file(path))
    return tensors


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights, shards in the order of their names."""
    for name in _SINGLE:
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _shards(index)
        if (folder / name).is_file():
            return [folder / name]
    wanted = f"{' or '.join(_SINGLE)}, or an index (.index.json) and its shards"
    raise DataError(folder, wanted, "none of them", "Fetch the weights into this folder.")


def _shards(index: Path) -> list[Path]:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise DataError(index, 'a "weight_map" of keys to files', "none", _FETCH_AGAIN)
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        # A name is data: it must not lead out of the folder.
        if Path(name).name != name:
            raise DataError(index, "names of files beside it", repr(name), _FETCH_AGAIN)
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        found = f"{len(missing)} missing: {', '.join(missing)}"
        raise DataError(index.parent, f"{len(names)} shards", found, "Fetch them too.")
    return [index.parent / name for name in names]


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Files of before torch 1.6 are no archives and cannot be mapped.
        mapped = zipfile.is_zipfile(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (SafetensorError, OSError, RuntimeError, UnpicklingError, EOFError, ValueError) as error:
        reason = (str(error).splitlines() or ["nothing readable"])[0]
        raise DataError(path, "tensors by name", reason, _FETCH_AGAIN) from error
    if not isinstance(content, dict) or not all(isinstance(t, Tensor) for t in content.values()):
        raise DataError(path, "tensors by name", f"a {type(content).__name__}", _FETCH_AGAIN)
    return content
