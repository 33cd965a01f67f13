"""Locate weights by folder or hub id: in ``$MLLM3D_WEIGHTS``, in the hub's cache, or on the hub.

Folders of checkpoints and vision towers on disk are preferred. The client of the hub is imported
only when a hub id is looked up.
"""

from __future__ import annotations

import json
import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from data.errors import DataError, UserError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w.-]+)?")
WEIGHTS_VARIABLE = "MLLM3D_WEIGHTS"
MAIN = "main"
_PATIENCE = 5.0
"""Seconds without an answer after which the hub counts as unreachable."""


def split_id(hub_id: str) -> tuple[str, str]:
    """Split a hub id into repository and revision, ``main`` by default."""
    repository, _, revision = hub_id.partition("@")
    return repository, revision or MAIN


def copy_here(hub_id: str) -> Path | None:
    """Find the copy of a hub id in ``$MLLM3D_WEIGHTS``; None if there is none.

    The folder is named ``org/name``, ``org--name`` or ``name``. Raises DataError if the folder
    has no ``config.json``.
    """
    above = os.environ.get(WEIGHTS_VARIABLE)
    if not above:
        return None
    organisation, _, name = split_id(hub_id)[0].partition("/")
    names = (f"{organisation}/{name}", f"{organisation}--{name}", name)
    folders = [Path(above).expanduser().absolute() / name for name in names]
    copy = next((folder for folder in folders if folder.is_dir()), None)
    if copy is not None and not (copy / "config.json").is_file():
        remedy = f"Fetch {hub_id} into it again, or remove the folder."
        raise DataError(copy, "a folder of weights", "one without config.json", remedy)
    return copy


def cached_folder(hub_id: str) -> Path | None:
    """Find the folder of a complete earlier download in the hub's cache; None if there is none."""
    from huggingface_hub import constants

    repository, revision = split_id(hub_id)
    cache_folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    try:
        commit = (cache_folder / "refs" / revision).read_text().strip()
    except OSError:
        commit = revision
    folder = cache_folder / "snapshots" / commit
    return folder if _is_complete(folder) else None


def _is_complete(folder: Path) -> bool:
    """Whether a folder holds ``config.json`` and weights, with all shards of a split checkpoint."""
    if not (folder / "config.json").is_file():
        return False
    for kind in ("safetensors", "bin"):
        files = {path.name for path in folder.glob(f"*.{kind}") if path.is_file()}
        named: set[str] = set()
        for index in folder.glob(f"*.{kind}.index.json"):
            try:
                named |= set(json.loads(index.read_text())["weight_map"].values())
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                return False
        if files and named <= files:
            return True
    return False


@cache
def hub_answers() -> bool:
    """Whether the hub is allowed and reachable from this machine; tested once per process.

    Any HTTP answer counts, errors included: the download reports them.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    answered: list[bool] = []

    def ask() -> None:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=_PATIENCE).close()
            answered.append(True)
        except urllib.error.HTTPError:
            answered.append(True)
        except urllib.error.URLError as error:
            # The hub's client may trust a certificate that Python's own client rejects.
            answered.append("CERTIFICATE" in str(error.reason))
        except (OSError, ValueError):
            answered.append(False)

    # In a thread, because the lookup of a host name has no time limit.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_PATIENCE)
    return bool(answered and answered[0])


def require_available(hub_ids: Sequence[str]) -> None:
    """Raise UserError unless each hub id is in the hub's cache or the hub is reachable.

    The caller looks for copies in ``$MLLM3D_WEIGHTS``.
    """
    missing = [hub_id for hub_id in hub_ids if cached_folder(hub_id) is None]
    if missing and not hub_answers():
        raise UserError(unavailable(missing))


def unavailable(hub_ids: Sequence[str]) -> str:
    """Format the error for weights that are neither on disk nor on a reachable hub."""
    from huggingface_hub import constants

    above = os.environ.get(WEIGHTS_VARIABLE)
    is_offline = constants.HF_HUB_OFFLINE
    reason = "the environment says offline (HF_HUB_OFFLINE)" if is_offline else "it does not answer"
    commands = " && ".join(_download(hub_id) for hub_id in hub_ids)
    return (
        f"{' and '.join(hub_ids)}: expected in ${WEIGHTS_VARIABLE} ({above or 'not set'}), in the "
        f"hub's cache ({constants.HF_HUB_CACHE}) or on the hub ({constants.ENDPOINT}), found in "
        f"neither folder, and of the hub: {reason}. Either run where the hub can be reached, once: "
        "what is fetched stays in its cache. Or fetch the files on a machine that is online, with "
        f"{commands}, and set {WEIGHTS_VARIABLE} to the folder that holds them."
    )


def _download(hub_id: str) -> str:
    repository, revision = split_id(hub_id)
    chosen = "" if revision == MAIN else f"--revision {revision} "
    return f"hf download {repository} {chosen}--local-dir {repository.partition('/')[2]}"


_SMALL_FILES = ["*.json", "*.model"]


def checkpoint_folder(weights: str | Path) -> Path:
    """Return the folder of a checkpoint: a local path, or the download of a hub id.

    Raises UserError when a hub id cannot be fetched, DataError for a path that is no folder.
    """
    return _folder(weights, "a LISA checkpoint's folder, or a hub id such as xinlai/LISA-7B-v1")


def tower_folder(
    checkpoint: Path, config: Mapping[str, Any], vision_tower: str | Path | None
) -> Path:
    """Return the folder of the CLIP vision tower of a checkpoint.

    It is ``vision_tower`` if given, else the ``mm_vision_tower`` of ``config``: a folder in or
    beside the checkpoint, or a hub id. Raises errors like ``checkpoint_folder``.
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
    """Return the folder ``named`` in or beside the checkpoint; None if there is none."""
    folders = (checkpoint / named, checkpoint.resolve().parent / named)
    return next((folder for folder in folders if folder.is_dir()), None)


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
    """Download a repository from the hub, or find an earlier download.

    Fetches safetensors if there are any, else ``.bin`` files, and all files that match the
    patterns ``small_files``. Raises UserError when the repository cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    repository, revision = split_id(hub_id)
    options: dict[str, Any] = {} if revision == MAIN else {"revision": revision}
    is_online = hub_answers()
    if not is_online:
        options["local_files_only"] = True
    try:
        for kind in ("*.safetensors", "*.bin"):
            patterns = [*small_files, kind]
            folder = Path(snapshot_download(repository, allow_patterns=patterns, **options))
            if any(folder.glob(kind)):
                break
    except (OSError, ValueError) as error:
        if not is_online:
            raise UserError(unavailable([hub_id])) from error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{hub_id}: neither a local folder nor available from the hub ({reason}). Correct the "
            "name, or fetch the files on a machine that is online and give their folder."
        ) from error
    return folder
