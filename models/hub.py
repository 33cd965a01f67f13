"""Finding the folders of a checkpoint and of its vision tower, on disk or on the hub."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.errors import DataError, UserError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SMALL_FILES = ["*.json", "*.model"]


def checkpoint_folder(weights: str | Path) -> Path:
    """The folder of a checkpoint: a local path, or a hub id, which is fetched.

    UserError when it is neither local nor reachable, DataError for a path that is no folder.
    """
    return _folder(weights, "a LISA checkpoint's folder, or a hub id such as xinlai/LISA-7B-v1")


def tower_folder(
    checkpoint: Path, config: Mapping[str, Any], vision_tower: str | Path | None
) -> Path:
    """The folder of the CLIP vision tower.

    ``vision_tower`` if given; else ``mm_vision_tower`` of ``config`` as a folder in the
    checkpoint's or beside it; else as a hub id. Errors are those of ``checkpoint_folder``.
    """
    expected = "the folder of a CLIP model, or a hub id such as openai/clip-vit-large-patch14"
    if vision_tower is not None:
        return _folder(vision_tower, expected)
    named = config.get("mm_vision_tower") or config.get("vision_tower")
    if not isinstance(named, str):
        remedy = "Name the CLIP model's folder: --vision-tower."
        raise DataError(checkpoint / "config.json", '"mm_vision_tower"', "none", remedy)
    try:
        return tower_here(checkpoint, named) or _folder(named, expected)
    except DataError as error:
        found = f"{named!r}, which is neither there, beside it nor on the hub"
        remedy = "Name the CLIP model's folder: --vision-tower."
        raise DataError(checkpoint / "config.json", expected, found, remedy) from error


def tower_here(checkpoint: Path, named: str) -> Path | None:
    """The tower's folder in the checkpoint's or beside it, if it is there."""
    places = (checkpoint / named, checkpoint.resolve().parent / named)
    return next((place for place in places if place.is_dir()), None)


def _folder(name: str | Path, expected: str) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise DataError(path, expected, "a file", "Give the folder that holds the file.")
    if isinstance(name, str) and HUB_ID.fullmatch(name):
        return fetch_folder(name)
    raise DataError(path, expected, "nothing", "Correct the path, or fetch the weights first.")


def fetch_folder(hub_id: str, small_files: Sequence[str] = _SMALL_FILES) -> Path:
    """Download from the hub, safetensors if there are any, or find an earlier download.

    ``small_files`` are patterns of what else is wanted. UserError when neither can be had.
    """
    from huggingface_hub import snapshot_download

    try:
        for kind in ("*.safetensors", "*.bin"):
            folder = Path(snapshot_download(hub_id, allow_patterns=[*small_files, kind]))
            if any(folder.glob(kind)):
                break
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{hub_id}: neither a folder here nor to be had from the hub ({reason}). Correct the "
            "name, or fetch the files on a machine that is online and give their folder."
        ) from error
    return folder
