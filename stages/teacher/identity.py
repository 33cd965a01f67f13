"""Hash the weights and code on which the answers of teachers and text encoders depend.

Fingerprints of steps hold these hashes. Planning computes them before every run, so no model is
imported: of files over 2 MiB the first and last MiB are hashed, of Python modules the source.
The hash depends on the content of the weights, not on the folder that holds them.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import ConfigError, DataError, UserError
from data.queries.vocabulary import read_words
from models.hub import HUB_ID, copy_here, require_available, split_id, tower_here
from stages.network_configs import TeacherConfig, TextConfig

NANO = Path(__file__).resolve().parents[2] / "models" / "lisa" / "nano"
"""Folder of the package with the weights of ``lisa_nano``."""
_MIB = 1 << 20
_NO_WEIGHTS = {".md", ".pyc"}


@dataclass(frozen=True)
class Weights:
    """Sources of LISA's weights: folders, or ids of repositories on Hugging Face's hub.

    ``vision_tower`` is None when the tower that the checkpoint names is not on this disk; the
    loader then looks for it on the hub.
    """

    checkpoint: Path | str
    vision_tower: Path | str | None


def teacher_identity(cfg: TeacherConfig) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the fields of ``cfg`` that the chosen teacher reads, and hashes of its content.

    The hashes are of weights (LISA) or of source code (a custom class), keyed by what they
    hash. Raises UserError when the weights or the source are missing.
    """
    if cfg.name == "oracle":
        return {"name": cfg.name, "seed": cfg.seed, "oracle": cfg.oracle.model_dump()}, {}
    if cfg.name == "custom":
        content = {"name": cfg.name, "class": cfg.class_, "seed": cfg.seed, "options": cfg.options}
        return content, {"code": digest_of_file(find_source(cfg.class_.partition(":")[0]))}
    settings = cfg.lisa.model_dump(exclude={"weights", "vision_tower"})
    settings |= {"use_start_end": cfg.use_start_end, "dtype": cfg.dtype}
    weights = locate_weights(cfg)
    identity = {"weights": identity_of(weights.checkpoint)}
    if weights.vision_tower is not None:
        identity["vision_tower"] = identity_of(weights.vision_tower)
    return {"name": cfg.name, "lisa": settings}, identity


def no_features(teacher: str) -> UserError:
    """Make the error for a teacher without image features."""
    return UserError(
        f"student.loss.image: the teacher {teacher!r} has no image features (it lacks "
        "feature_grid and image_features, see models/teacher.py). Choose a LISA, or set "
        "student.loss.image=0."
    )


def locate_weights(cfg: TeacherConfig) -> Weights:
    """Return the sources of the chosen LISA's weights; raise UserError when none are configured.

    Raises DataError for a configured folder that does not exist or holds no checkpoint.
    """
    configured = cfg.lisa.weights
    if not configured and cfg.name == "lisa_nano":
        if not (NANO / "config.json").is_file():
            raise UserError(
                f"{NANO}: the weights of the teacher 'lisa_nano' are not in this installation. "
                "Install the project again, or choose another teacher (teacher.name=oracle)."
            )
        return Weights(NANO, _named_tower(NANO))
    if not configured:
        raise UserError(
            f"the teacher {cfg.name!r} needs weights: set teacher.lisa.weights to the folder of a "
            "published checkpoint, one with config.json, tokenizer.model and the weight files "
            "(such as weights/LISA-7B-v1), or to its hub id (such as xinlai/LISA-7B-v1)."
        )
    checkpoint = _own_or_named(configured, "teacher.lisa.weights")
    tower: Path | str | None = None
    if cfg.lisa.vision_tower:
        tower = _own_or_named(cfg.lisa.vision_tower, "teacher.lisa.vision_tower")
    elif isinstance(checkpoint, Path):
        tower = _named_tower(checkpoint)
    return Weights(checkpoint, tower)


def words_met(cfg: TeacherConfig) -> frozenset[str] | None:
    """Return the words that the teacher's language model has met, which only LISA-nano tells.

    Raises DataError for a list of words that cannot be read.
    """
    if not cfg.is_lisa:
        return None
    checkpoint = locate_weights(cfg).checkpoint
    return read_words(checkpoint) if isinstance(checkpoint, Path) else None


def require_weights(cfg: TeacherConfig) -> None:
    """Raise UserError unless a LISA's weights are on disk, in the hub's cache, or on the hub.

    Does nothing for other teachers. Without network the error comes within seconds.
    """
    if cfg.is_lisa:
        weights = locate_weights(cfg)
        sources = (weights.checkpoint, weights.vision_tower)
        require_available([source for source in sources if isinstance(source, str)])


def _own_or_named(text: str, key: str) -> Path | str:
    """Return ``place_of``, or the copy of a hub id in ``$MLLM3D_WEIGHTS`` where there is one."""
    source = place_of(text, key)
    return (copy_here(source) or source) if isinstance(source, str) else source


def place_of(text: str, key: str) -> Path | str:
    """Resolve the config value ``text`` of ``key`` to a folder with ``config.json`` or a hub id.

    A hub id may end in ``@revision``. Raises DataError for anything else.
    """
    folder = Path(os.path.expandvars(os.path.expanduser(text))).absolute()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            remedy = f"{key} must be the folder that holds config.json and the weights."
            raise DataError(folder, "a folder of weights", "one without config.json", remedy)
        return folder
    if HUB_ID.fullmatch(text) and not folder.exists():
        return text
    flags = " (--weights, --vision-tower)" if key.startswith("teacher.") else ""
    remedy = f"Put the weights there or change {key}{flags}; see the README."
    if "$" in str(folder):
        remedy = f"An environment variable in {key} is not set: export it."
    raise DataError(folder, "a folder of weights", "no such folder", remedy)


def _named_tower(checkpoint: Path) -> Path | None:
    """Return the folder of the tower that a checkpoint names, in or beside it; None if absent."""
    try:
        config = json.loads((checkpoint / "config.json").read_text())
        named = config.get("mm_vision_tower") or config.get("vision_tower")
        return tower_here(checkpoint, named)
    except (OSError, ValueError, AttributeError, TypeError):
        return None


def identity_of(place: Path | str) -> str:
    """Return a hub id with its revision, or the SHA-256 of a folder's file names and content."""
    if isinstance(place, str):
        repository, revision = split_id(place)
        return f"{repository}@{revision}"
    whole = hashlib.sha256()
    for path in _files(place):
        name = path.relative_to(place).as_posix()
        whole.update(f"{name} {digest_of_file(path)}\n".encode())
    return whole.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a checkpoint without hidden files and model cards."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and path.suffix not in _NO_WEIGHTS:
            yield path


def digest_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's size and content; over 2 MiB, of its first and last MiB.

    Raises DataError for a file that cannot be read.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as stream:
            digest = hashlib.sha256(f"{size} ".encode())
            if size <= 2 * _MIB:
                digest.update(stream.read())
            else:
                digest.update(stream.read(_MIB))
                stream.seek(-_MIB, os.SEEK_END)
                digest.update(stream.read())
    except OSError as error:
        raise DataError(path, "a readable file", str(error), "Check its permissions.") from error
    return digest.hexdigest()


def import_from_here() -> None:
    """Append the current folder to ``sys.path``, so that installed modules come first."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)


def find_source(module: str) -> Path:
    """Find a module's source file without importing the module; ConfigError if there is none."""
    import_from_here()
    importlib.invalidate_caches()
    top, *rest = module.split(".")
    specs = (finder.find_spec(top, None) for finder in sys.meta_path)
    spec = next((candidate for candidate in specs if candidate is not None), None)
    source = Path(spec.origin) if spec is not None and spec.origin else None
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    for name in rest:
        source, folders = _find_below([Path(folder) for folder in folders], name)
    if source is None or not source.is_file():
        raise ConfigError(
            f"teacher.class: there is no module {module!r} with a source file, neither installed "
            f"nor in the current folder ({os.getcwd()}). Correct the name, or run in the folder "
            "that holds the module."
        )
    return source


def _find_below(folders: list[Path], name: str) -> tuple[Path | None, list[str]]:
    """Return the source of a submodule, and the folders of its submodules."""
    for folder in folders:
        for source in (folder / name / "__init__.py", folder / f"{name}.py"):
            if source.is_file():
                return source, [str(folder / name)]
    return None, [str(folder / name) for folder in folders if (folder / name).is_dir()]


def text_identity(
    cfg: TextConfig, teacher_cfg: TeacherConfig
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the fields of both configs that the text encoder reads, and hashes of its weights.

    Raises UserError when the weights are missing or the teacher has no language model.
    """
    if cfg.encoder != "teacher":
        weights = {"text_weights": identity_of(place_of(cfg.weights, "text.weights"))}
        return {"encoder": cfg.encoder}, weights
    require_language_model(teacher_cfg)
    teacher, weights = teacher_identity(teacher_cfg)
    content = {"encoder": cfg.encoder, "images_per_scene": cfg.images_per_scene, "teacher": teacher}
    return content, weights


def require_language_model(teacher_cfg: TeacherConfig) -> None:
    """Raise ConfigError for a teacher that is not LISA."""
    if not teacher_cfg.is_lisa:
        raise ConfigError(
            f"the teacher {teacher_cfg.name!r} has no language model to encode sentences with: "
            "set text.encoder=sentence or text.encoder=clip, and text.weights to the folder of "
            "its weights"
        )
