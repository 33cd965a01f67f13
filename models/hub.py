"""Weights by folder or hub id: a copy in ``$MLLM3D_WEIGHTS``, the hub's cache, or the hub.

Folders of a checkpoint and of its vision tower are found on disk first. Nothing here imports the
hub's client before something must be fetched.
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
"""Seconds after which a hub that has not answered counts as out of reach."""


def split_id(hub_id: str) -> tuple[str, str]:
    """Repository and revision of a name; the revision is ``main`` where none is given."""
    repository, _, revision = hub_id.partition("@")
    return repository, revision or MAIN


def copy_here(hub_id: str) -> Path | None:
    """The copy in ``$MLLM3D_WEIGHTS``, in ``org/name``, ``org--name`` or ``name``; None without.

    Raises DataError for such a folder without a ``config.json``.
    """
    above = os.environ.get(WEIGHTS_VARIABLE)
    if not above:
        return None
    organisation, _, name = split_id(hub_id)[0].partition("/")
    places = (f"{organisation}/{name}", f"{organisation}--{name}", name)
    folders = [Path(above).expanduser().absolute() / place for place in places]
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is not None and not (found / "config.json").is_file():
        remedy = f"Fetch {hub_id} into it again, or remove the folder."
        raise DataError(found, "a folder of weights", "one without config.json", remedy)
    return found


def cached_folder(hub_id: str) -> Path | None:
    """The folder of an earlier download that is complete; None where there is none."""
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
    """Whether a folder holds ``config.json`` and weights, of a split checkpoint all its files."""
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
    """Whether the hub can be reached from this machine and may be; asked once per process.

    Any answer counts, an error's too: what is wrong with it is told by the download itself.
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
            # A certificate that Python's own client does not know may be known to the hub's.
            answered.append("CERTIFICATE" in str(error.reason))
        except (OSError, ValueError):
            answered.append(False)

    # In a thread, because nothing bounds how long the name of a host is looked up.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_PATIENCE)
    return bool(answered and answered[0])


def require_available(hub_ids: Sequence[str]) -> None:
    """Raise UserError unless each of these is in the hub's cache or can be fetched.

    Copies in ``$MLLM3D_WEIGHTS`` are looked for by the caller.
    """
    missing = [hub_id for hub_id in hub_ids if cached_folder(hub_id) is None]
    if missing and not hub_answers():
        raise UserError(unavailable(missing))


def unavailable(hub_ids: Sequence[str]) -> str:
    """The message about weights that are nowhere here and cannot be fetched, with both remedies."""
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
            f"{hub_id}: neither a folder here nor to be had from the hub ({reason}). Correct the "
            "name, or fetch the files on a machine that is online and give their folder."
        ) from error
    return folder
