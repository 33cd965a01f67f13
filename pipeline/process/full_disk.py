"""A full disk told as what it is, whichever library met it."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.artifacts.metadata import listed_files, read_metadata
from data.errors import UserError

_CODES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NUMBERS = "|".join(str(code) for code in sorted(_CODES))
# HDF5, safetensors and torch wrap the system's error, and leave its number only in their text.
_WORDS = re.compile(
    rf"no space left on device|disk quota exceeded|file too large|"
    rf"os error (?:{_NUMBERS})\b|errno = (?:{_NUMBERS})\b",
    re.IGNORECASE,
)
_FULL_BELOW = 64 * 2**10


@contextmanager
def explained(place: Path, stage_folder: Path | None = None) -> Iterator[None]:
    """Raise UserError for an error in the body that a full disk at ``place`` caused.

    What was needed is estimated by the artifacts of the same stage in ``stage_folder``.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        free = _free(place)
        if _names_it(error):
            raise UserError(_message(place, free, stage_folder)) from error
        if free is None or free >= _FULL_BELOW:
            raise
        # Some libraries say only that writing failed; so the error is told as well.
        told = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{_message(place, free, stage_folder)} ({told})") from error


def _names_it(error: BaseException | None) -> bool:
    """Whether the error, or one that led to it, says that there was no space."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _CODES or _WORDS.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _free(place: Path) -> int | None:
    """Bytes left where ``place`` lies or would lie; None where nobody can tell."""
    there = next((path for path in (place, *place.parents) if path.exists()), None)
    try:
        return shutil.disk_usage(there).free if there else None
    except OSError:
        return None


def _message(place: Path, free: int | None, stage_folder: Path | None) -> str:
    left = f" ({free / 1e6:,.1f} MB left)" if free is not None else ""
    sizes = _sizes(stage_folder) if stage_folder else []
    if sizes:
        needs = f"needs about {max(sizes) / 1e6:,.1f} MB, as the largest of its like took"
    else:
        needs = "needs more; none of its like was made here yet to tell how much"
    return (
        f"no space left on the disk, or in the quota or file size allowed, at {place}{left}: "
        f"it {needs}. Free some (python -m pipeline gc --scene-set ... frees what no run needs) "
        "or set MLLM3D_OUTPUT to a folder on another disk, and run the same again."
    )


def _sizes(stage_folder: Path) -> list[int]:
    """Bytes of the finished artifacts of a stage, of one scene or of several."""
    found = (*stage_folder.glob("*/metadata.json"), *stage_folder.glob("*/*/metadata.json"))
    files = (listed_files(read_metadata(path.parent) or {}) or {} for path in found)
    return [size for of_one in files if (size := sum(file.size for file in of_one.values()))]
