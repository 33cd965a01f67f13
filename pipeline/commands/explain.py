"""Commands explain and diff: an artifact's provenance, and the differences of two runs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path

from data.errors import UserError
from pipeline.commands.command import Command
from pipeline.config import flat
from pipeline.process.progress import size, table
from pipeline.provenance import (
    Catalogue,
    Record,
    artifact_of,
    config_keys,
    differences,
    input_in_store,
    read_catalogue,
    shown,
    upstream_of,
)
from pipeline.steps.declaration import section_model, step_of
from stages.report.html import duration


def _add_arguments(parser: ArgumentParser) -> None:
    text = "an artifact's folder, a file in one, or results at <output>/<scene set>/"
    parser.add_argument("path", type=Path, metavar="PATH", help=text)


def _explain(options: Namespace) -> None:

    record = artifact_of(options.path)
    catalogue = read_catalogue(record.root)
    print(record.folder)
    print("\n".join(_tree(record, catalogue, set())))
    for text in catalogue.damaged:
        print(f"damaged: {text}")


def _tree(
    record: Record, catalogue: Catalogue, seen: set[str], name: str = "", depth: int = 0
) -> Iterator[str]:
    """An artifact and, indented, its inputs; an artifact shown before is only named."""
    indent, label = "  " * depth, f"{name}: " if name else ""
    if record.fingerprint in seen:
        yield f"{indent}{label}{record.title}, as above"
        return
    seen.add(record.fingerprint)
    finished = record.finished.strftime("%Y-%m-%d %H:%M:%S %z")
    cost = f"{duration(record.seconds)}, {size(record.num_bytes)}"
    yield f"{indent}{label}{record.title}, on {record.host}, {finished}, {cost}"
    config = _changed_config(record)
    if config:
        yield f"{indent}    with {', '.join(config)}"
    for input_name, identity in record.inputs.items():
        source = catalogue.made(identity) or input_in_store(record, input_name, identity)
        if source is None:
            yield f"{indent}  {input_name}: {identity[:12]}"
        else:
            yield from _tree(source, catalogue, seen, input_name, depth + 1)


def _changed_config(record: Record) -> list[str]:
    """Config values that differ from the defaults or have no default."""
    step = step_of(record.stage, record.scene)
    model = section_model(step) if step is not None else None
    content = {step.section: model().model_dump()} if step is not None and model else {}
    defaults = flat(content)
    values = config_keys(record)
    return [
        f"{key}={shown(value)}"
        for key, value in values.items()
        if key not in defaults or defaults[key] != value
    ]


EXPLAIN = Command(
    "show what an artifact was made from, up to the source data", _add_arguments, _explain
)


_METRICS = "metrics.json"
_NOTHING = "-"
_MOST_ROWS = 40


def _add_diff_arguments(parser: ArgumentParser) -> None:
    text = "an artifact's folder (both of one stage), or <output>/<scene set> for its results"
    parser.add_argument("first", type=Path, metavar="RUN", help=text)
    parser.add_argument(
        "second", type=Path, metavar="RUN", help="the artifact or results to compare with"
    )


def _diff(options: Namespace) -> None:

    first, second = artifact_of(options.first), artifact_of(options.second)
    if first.stage != second.stage:
        raise UserError(
            f"expected two artifacts of the same stage, found {first.folder} of {first.stage} and "
            f"{second.folder} of {second.stage}"
        )
    print(f"first:  {first.folder}\nsecond: {second.folder}")
    if first.fingerprint == second.fingerprint:
        print("the same artifact: same config, same inputs")
        return
    print("\n".join(_page(first, second)))


def _page(first: Record, second: Record) -> Iterator[str]:

    differing = differences([upstream_of(record) for record in (first, second)])
    for title, changed in (("config", differing.config), ("inputs from outside", differing.leaves)):
        rows = [[name, *values] for name, values in changed.items()]
        yield f"{title}: {len(rows) or 'no'} difference{'s' if len(rows) != 1 else ''}"
        if rows:
            yield from table([[title, "first", "second"], *rows[:_MOST_ROWS]], left=2)
        if len(rows) > _MOST_ROWS:
            yield f"... and {len(rows) - _MOST_ROWS} more"
    yield from _metrics(first, second)


def _metrics(first: Record, second: Record) -> Iterator[str]:
    paths = [record.folder / _METRICS for record in (first, second)]
    if not all(path.is_file() for path in paths):
        yield f"metrics: not compared, because not both have {_METRICS}"
        return
    first_metrics, second_metrics = map(_read_numbers, paths)
    names = list(dict.fromkeys((*first_metrics, *second_metrics)))
    changed = [name for name in names if first_metrics.get(name) != second_metrics.get(name)]
    yield f"metrics: {len(changed)} of {len(names)} differ"
    if changed:
        rows = [
            [
                name,
                _number_text(first_metrics, name),
                _number_text(second_metrics, name),
                _difference(first_metrics, second_metrics, name),
            ]
            for name in changed
        ]
        yield from table([["metric", "first", "second", "difference"], *rows])


def _read_numbers(path: Path) -> dict[str, float]:
    """The numbers in a metrics.json by dotted keys; ArtifactError when it cannot be read."""
    from data.jsonio import read_json

    remedy = "Remove its folder and run Evaluate or Report again."
    content = read_json(path, "metrics", remedy, finite=False)
    numbers = flat(content) if isinstance(content, dict) else {}
    return {
        name: value
        for name, value in numbers.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _number_text(side: Mapping[str, float], name: str) -> str:
    value = side.get(name)
    if value is None:
        return _NOTHING
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def _difference(first: Mapping[str, float], second: Mapping[str, float], name: str) -> str:
    if name not in first or name not in second:
        return _NOTHING
    change = second[name] - first[name]
    return f"{change:+d}" if isinstance(change, int) else f"{change:+.4f}"


DIFF = Command(
    "show two runs' configs, inputs and metrics side by side", _add_diff_arguments, _diff
)
