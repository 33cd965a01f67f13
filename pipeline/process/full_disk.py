"""A full disk reported as a UserError, whichever library met it first."""

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
# HDF5, safetensors and torch wrap the system's error and keep its number in the text only.
_WORDS = re.compile(
    rf"no space left on device|disk quota exceeded|file too large|"
    rf"os error (?:{_NUMBERS})\b|errno = (?:{_NUMBERS})\b",
    re.IGNORECASE,
)
_FULL_BELOW = 64 * 2**10


@contextmanager
def explained(path: Path, stage_folder: Path | None = None) -> Iterator[None]:
    """Raise UserError for an error in the body that a full disk at ``place`` caused.

    The message estimates the space needed from finished artifacts in ``stage_folder``.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        free = _free(path)
        if _says_no_space(error):
            raise UserError(_message(path, free, stage_folder)) from error
        if free is None or free >= _FULL_BELOW:
            raise
        # Some libraries say only that writing failed, so the message repeats their error.
        error_text = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{_message(path, free, stage_folder)} ({error_text})") from error


def _says_no_space(error: BaseException | None) -> bool:
    """Whether the error, or one of its causes, says that there was no space."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _CODES or _WORDS.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _free(path: Path) -> int | None:
    """Free bytes on the disk of ``path``; None where they cannot be read."""
    existing = next((folder for folder in (path, *path.parents) if folder.exists()), None)
    try:
        return shutil.disk_usage(existing).free if existing else None
    except OSError:
        return None


def _message(path: Path, free: int | None, stage_folder: Path | None) -> str:
    free_text = f" ({free / 1e6:,.1f} MB left)" if free is not None else ""
    sizes = _sizes(stage_folder) if stage_folder else []
    if sizes:
        needs = f"needs about {max(sizes) / 1e6:,.1f} MB, as the largest of this stage has"
    else:
        needs = "needs more; no artifact of this stage exists yet to estimate how much"
    return (
        f"no space left on the disk, or in the quota or file size allowed, at {path}{free_text}: "
        f"the artifact {needs}. Free space (mllm3d gc --scene-set ... frees unneeded artifacts) "
        "or set MLLM3D_OUTPUT to a folder on another disk, and run the same command again."
    )


def _sizes(stage_folder: Path) -> list[int]:
    """Bytes of each finished artifact of a stage."""
    metadata_paths = (
        *stage_folder.glob("*/metadata.json"),
        *stage_folder.glob("*/*/metadata.json"),
    )
    files = (listed_files(read_metadata(path.parent) or {}) or {} for path in metadata_paths)
    return [
        size for of_artifact in files if (size := sum(file.size for file in of_artifact.values()))
    ]
