"""``python -m pipeline explain``: what an artifact was made from, up to the source data."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.command import Command
from pipeline.tables import duration, size

if TYPE_CHECKING:
    from pipeline.provenance import Catalogue, Record


def _add_arguments(parser: ArgumentParser) -> None:
    told = "an artifact's folder, a file in one, or results at <output>/<scene set>/"
    parser.add_argument("path", type=Path, metavar="PATH", help=told)


def _explain(options: Namespace) -> None:
    from pipeline.provenance import artifact_of, read_catalogue

    record = artifact_of(options.path)
    catalogue = read_catalogue(record.root)
    print(record.folder)
    print("\n".join(_tree(record, catalogue, set())))
    for text in catalogue.damaged:
        print(f"damaged: {text}")


def _tree(
    record: Record, catalogue: Catalogue, seen: set[str], name: str = "", depth: int = 0
) -> Iterator[str]:
    """An artifact and, deeper, its inputs; one that was shown already is only named."""
    from pipeline.scene_caches import input_in_store

    indent, label = "  " * depth, f"{name}: " if name else ""
    if record.fingerprint in seen:
        yield f"{indent}{label}{record.title}, as above"
        return
    seen.add(record.fingerprint)
    when = record.finished.strftime("%Y-%m-%d %H:%M:%S %z")
    cost = f"{duration(record.seconds)}, {size(record.num_bytes)}"
    yield f"{indent}{label}{record.title}, on {record.host}, {when}, {cost}"
    config = _unusual(record)
    if config:
        yield f"{indent}    with {', '.join(config)}"
    for input_name, identity in record.inputs.items():
        made = catalogue.made(identity) or input_in_store(record, input_name, identity)
        if made is None:
            yield f"{indent}  {input_name}: {identity[:12]}"
        else:
            yield from _tree(made, catalogue, seen, input_name, depth + 1)


def _unusual(record: Record) -> list[str]:
    """Where an artifact's config differs from the defaults, and all that has no default."""
    from pipeline.config import flat
    from pipeline.provenance import SECTIONS, config_keys, shown
    from stages.configs import Experiment

    section = SECTIONS.get(record.stage)
    content = {section: getattr(Experiment(), section).model_dump()} if section else {}
    defaults = flat(content)
    found = config_keys(record)
    return [
        f"{key}={shown(value)}"
        for key, value in found.items()
        if key not in defaults or defaults[key] != value
    ]


EXPLAIN = Command("what an artifact was made from, up to the source data", _add_arguments, _explain)
