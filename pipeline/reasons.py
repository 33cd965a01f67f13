"""Why a stage would run: what differs from the latest artifact of the same stage and scene."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from data.artifacts.store import METADATA, ArtifactKey, read_metadata
from pipeline.graph import Known, Unit
from pipeline.provenance import Record, config_keys, shown, shown_both

_LEAVES = {
    "scan": "the scan's files",
    "views": "the scan's files, prepare.camera or prepare.max_views",
    "queries": "the query files",
    "bank": "prompts.bank",
    "weights": "the teacher's weights",
    "vision_tower": "the teacher's weights",
    "code": "the teacher's source code",
}
NEVER = "never run"


def why(unit: Unit, known: Known) -> str:
    """Why a unit that is not done would run, in words that are the same for like units."""
    latest = known.catalogues[unit.root].of(unit.key.stage, unit.scene)
    texts = list(_own_state(unit.key))
    if latest and latest[-1].fingerprint != unit.key.fingerprint:
        texts += _changes(latest[-1], unit.key, known)
    return "; ".join(texts) or NEVER


def _own_state(key: ArtifactKey) -> Iterator[str]:
    """What is wrong with the artifact itself, where a run has begun or finished it."""
    if not key.folder.is_dir():
        return
    if not (key.folder / METADATA).exists():
        yield "begun and not finished"
        return
    content = read_metadata(key.folder)
    if content is None or content.get("fingerprint") != key.fingerprint:
        yield f"{METADATA} is damaged"
        return
    files = content.get("files", {})
    for name, entry in files.items():
        path = key.folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != entry["bytes"]:
            has = "is missing" if found is None else f"has {found} bytes"
            yield f"damaged: {name} {has}, recorded were {entry['bytes']}"
            return


def _changes(old: Record, key: ArtifactKey, known: Known) -> list[str]:
    """What differs between an artifact and the key of another of its stage."""
    texts: Counter[str] = Counter()
    if old.schema_version != key.schema_version:
        texts[f"stage version from {old.schema_version} to {key.schema_version}"] += 1
    texts.update(_config_changes(old, key))
    texts.update(_input_changes(old, key, known))
    return [text if number == 1 else f"{text} ({number} of them)" for text, number in texts.items()]


def _config_changes(old: Record, key: ArtifactKey) -> Iterator[str]:
    before, after = config_keys(old), config_keys(key)
    for name in dict.fromkeys((*before, *after)):
        if name not in before:
            yield f"{name} is new: {shown(after[name])}"
        elif name not in after:
            yield f"{name} is gone, was {shown(before[name])}"
        elif before[name] != after[name]:
            one, two = shown_both(before[name], after[name])
            yield f"{name} from {one} to {two}"


def _input_changes(old: Record, key: ArtifactKey, known: Known) -> Iterator[str]:
    for name in dict.fromkeys((*old.inputs, *key.inputs)):
        kind = name.split(" ")[0]  # "labels <scene>" is one of many inputs of a kind.
        if name not in old.inputs:
            yield f"input {kind} added"
        elif name not in key.inputs:
            yield f"input {kind} removed"
        elif old.inputs[name] != key.inputs[name]:
            yield _input_change(kind, old.inputs[name], key.inputs[name], known)


def _input_change(kind: str, before: str, after: str, known: Known) -> str:
    unit = known.unit(after)
    if unit is None:
        told = f" ({_LEAVES[kind]})" if kind in _LEAVES else ""
        return f"input {kind} changed{told}"
    if unit.runs:
        return f"input {kind}: {unit.task} runs anew"
    made = known.catalogues[unit.root].made(before)
    causes = _changes(made, unit.key, known) if made is not None else []
    told = f" ({'; '.join(causes)})" if causes else ""
    return f"input {kind}: another of {unit.task}, made before{told}"
