"""Command compare: compare runs query by query, on an HTML page and as a table."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from data.artifacts.evaluation import SOURCES
from data.errors import DataError, UserError
from pipeline.commands.command import Command
from pipeline.process.progress import table
from pipeline.provenance import (
    Catalogue,
    Record,
    Upstream,
    artifact_of,
    differences,
    read_catalogue,
    read_record,
    upstream_of,
)
from pipeline.steps import STEPS

if TYPE_CHECKING:
    from data.types import Array
    from stages.evaluation.paired_comparison import PairedMetric
    from stages.report.compare import Comparison
    from stages.report.inputs import ComparedRun, ComparedScene, CompareInputs


_PICTURES = 24


def _add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    text = "<output>/<scene set> for its results, or the folder of a report or an evaluation"
    add("runs", type=Path, nargs="+", metavar="RUN", help=f"two to six runs: {text}")
    add(
        "--out",
        type=Path,
        default=Path("compare.html"),
        help="page to write (default: compare.html)",
    )
    add(
        "--source",
        choices=SOURCES,
        default="student",
        help="source of the masks (default: student)",
    )
    text = f"number of queries to draw, those with the largest change (default: {_PICTURES})"
    add("--pictures", type=_number, default=_PICTURES, metavar="N", help=text)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ArgumentTypeError(f"expected a whole number of 0 or more, found {text!r}")
    return int(text)


def _compare(options: Namespace) -> None:

    if not 2 <= len(options.runs) <= 6:
        raise UserError(f"expected two to six runs, found {len(options.runs)}")
    if options.out.is_dir() or not options.out.absolute().parent.is_dir():
        raise UserError(f"--out: expected a file in an existing folder, found {options.out}")
    runs = find_runs(options.runs)

    from data.artifacts.store import write_text_atomic
    from stages.configs import ReportConfig
    from stages.report import compare

    made = compare.run(
        compare_inputs(runs, options.source), ReportConfig(max_pictures=options.pictures)
    )
    write_text_atomic(options.out, made.html)
    print("\n".join(_summary([run.name for run in runs], options.source, made)))
    print(f"{options.out}: {len(made.html.encode()) / 1e6:.1f} MB")


def _summary(names: list[str], source: str, made: Comparison) -> Iterator[str]:
    shared = made.shared
    for number, (name, left_out) in enumerate(zip(names, shared.left_out, strict=True), start=1):
        yield f"run {number}: {name}" + (
            f" ({left_out} of its queries left out)" if left_out else ""
        )
    count = len(shared.rows[0])
    yield f"{count} shared {'query' if count == 1 else 'queries'}, {source}, percent"
    for number in range(2, len(names) + 1):
        titles = ["", "run 1", f"run {number}", "difference", "95 % interval", "better", "worse"]
        rows = [_row(name, metric, number - 1) for name, metric in _named(made)]
        yield from table([[*titles, "p, sign test"], *rows])


def _named(made: Comparison) -> Iterator[tuple[str, PairedMetric]]:
    from stages.evaluation.paired_comparison import METRIC_NAMES

    return ((METRIC_NAMES[key], metric) for key, metric in made.metrics.items())


def _row(name: str, metric: PairedMetric, number: int) -> list[str]:
    from stages.report.compare import chance, points

    change = metric.changes[number - 1]
    counts = ["–" if count is None else str(count) for count in (change.better, change.worse)]
    return [
        name,
        f"{100 * metric.values[0]:.1f}",
        f"{100 * metric.values[number]:.1f}",
        points(change.difference),
        f"[{points(change.low)}, {points(change.high)}]",
        *counts,
        chance(change.sign_p),
    ]


COMPARE = Command("compare runs query by query, on a page and as a table", _add_arguments, _compare)


_REMEDY = "Name the output folder of a scene set, or the folder of a report or an evaluation."
_TEACHER, _STUDENTS = "run_teacher", ("train_student", "finetune_student")


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A run as the command line named it: its evaluation and the artifacts of the same output."""

    name: str
    record: Record
    catalogue: Catalogue
    upstream: Upstream

    def made(self, identity: str | None) -> Record | None:
        """The artifact of that fingerprint; None where it was removed."""
        return None if identity is None else self.catalogue.made(identity)


def find_runs(paths: Sequence[Path]) -> list[FinishedRun]:
    """The evaluated runs that the paths name, see ``artifact_of``.

    Raises UserError for a path without an artifact and for a run without evaluation, ArtifactError
    for damaged metadata.
    """
    catalogues: dict[Path, Catalogue] = {}
    runs = []
    for path in paths:
        record = _evaluation_of(path)
        if record.root not in catalogues:
            catalogues[record.root] = read_catalogue(record.root)
        catalogue = catalogues[record.root]
        runs.append(FinishedRun(str(path), record, catalogue, upstream_of(record, catalogue)))
    return runs


def _evaluation_of(path: Path) -> Record:
    record = artifact_of(path)
    if record.stage == "evaluate":
        return _of_this_version(record)
    if record.stage != "report":
        found = f"an artifact of {record.stage}"
        raise DataError(path, "an evaluated run", found, _REMEDY)
    identity = record.inputs.get("evaluation")
    if identity is None:
        found = "a report of a scene set without ground truth"
        raise DataError(
            path, "an evaluated run", found, "Name a run on a scene set with ground truth."
        )
    folder = record.root / "evaluate" / identity[:12]
    if not folder.is_dir():
        remedy = "It was removed: run Evaluate again with the same --config and --overrides."
        raise DataError(path, f"the report's evaluation at {folder}", "no such folder", remedy)
    return _of_this_version(read_record(folder))


def _of_this_version(record: Record) -> Record:
    """The evaluation itself; DataError for one that another version of the project made."""
    version = STEPS[record.stage].version
    if record.schema_version != version:
        expected, found = f"an evaluation of version {version}", f"version {record.schema_version}"
        remedy = "Run RunAll again with the same --config and --overrides."
        raise DataError(record.folder, expected, found, remedy)
    return record


def compare_inputs(runs: Sequence[FinishedRun], source: str) -> CompareInputs:
    """Inputs of the page; ArtifactError for an evaluation or ground truth that cannot be read."""
    from stages.report.inputs import CompareInputs, Setting

    changed_values = differences([run.upstream for run in runs])
    settings, outside_inputs = (
        [Setting(name, values) for name, values in changed.items()] for changed in changed_values
    )
    return CompareInputs(
        [_compared(run) for run in runs],
        source,
        settings,
        outside_inputs,
        partial(_scenes, runs, source),
    )


def _compared(run: FinishedRun) -> ComparedRun:
    from data.artifacts.evaluation import read_evaluation
    from data.artifacts.prompts import read_truths
    from stages.report.inputs import ComparedRun

    prompts = run.made(run.record.inputs.get("prompts"))
    truths = read_truths(prompts.folder) if prompts else {}
    return ComparedRun(
        run.name,
        read_evaluation(run.record.folder),
        _facts(run),
        {name: truth.object_ids for name, truth in truths.items()},
        tuple(_warnings(run)),
    )


def _facts(run: FinishedRun) -> dict[str, str]:
    teacher = run.upstream.stages.get(_TEACHER)
    students = [run.upstream.stages[stage] for stage in _STUDENTS if stage in run.upstream.stages]
    return {
        "Scene set": run.record.root.name,
        "Teacher": str(teacher.config.get("name", "")) if teacher else "not known",
        "Student": students[0].fingerprint[:12] if students else "not known",
        "Evaluation": run.record.fingerprint[:12],
        "Evaluated": f"{run.record.finished:%Y-%m-%d %H:%M %Z}",
    }


def _warnings(run: FinishedRun) -> Iterator[str]:
    stages = run.upstream.stages
    if _TEACHER in stages and stages[_TEACHER].config.get("name") == "oracle":
        yield "its teacher is an oracle, whose masks are ground truth with errors added on purpose."
    if any(s in stages and stages[s].config.get("supervision") == "oracle" for s in _STUDENTS):
        yield "its student was trained on ground truth."


def _scenes(
    runs: Sequence[FinishedRun], source: str, scene_ids: Collection[str]
) -> Iterator[ComparedScene]:
    """Scenes whose masks all runs still have, with the ground truth of the first run's scan."""
    from data.artifacts.prompts import read_truths
    from data.artifacts.scene import read_ground_truth, read_scene
    from stages.report.inputs import ComparedScene

    prompts = runs[0].made(runs[0].record.inputs.get("prompts"))
    for name in sorted(scene_ids):
        prepared = _prepared(runs[0], name)
        folders = [_masks_of(run, name, source) for run in runs]
        if prompts is None or prepared is None or None in folders:
            continue
        scene, truth = read_scene(prepared.folder), read_ground_truth(prepared.folder)
        masks = [_read_masks(record, source, len(scene.cloud)) for record in folders if record]
        shared_ids = set.intersection(*(set(of_run) for of_run in masks))
        prompt_truths = read_truths(prompts.folder)
        # A search concerns several rooms, which have other prompt ids: it is not drawn.
        truths = {
            prompt_id: truth.mask(prompt_truths[prompt_id].object_ids)
            for prompt_id in sorted(shared_ids & set(prompt_truths))
        }
        yield ComparedScene(scene, masks, truths)


def _prepared(run: FinishedRun, scene: str) -> Record | None:
    teacher_2d = run.made(run.record.inputs.get(f"teacher_2d {scene}"))
    return run.made(teacher_2d.inputs.get("scene")) if teacher_2d else None


def _masks_of(run: FinishedRun, scene: str, source: str) -> Record | None:
    """The artifact that holds one source's masks of a scene."""
    if source != "fusion_only":
        return run.made(run.record.inputs.get(f"masks {scene}"))
    answers = run.made(run.record.inputs.get(f"answers {scene}"))
    return run.made(answers.inputs.get("labels")) if answers else None


def _read_masks(record: Record, source: str, num_points: int) -> dict[str, Array]:
    from data.artifacts.soft_masks import read_predictions, read_pseudo

    if source == "fusion_only":
        labels = read_pseudo(record.folder)
        prompt_ids, masks = labels.prompt_ids, labels.answers()
    else:
        predictions = read_predictions(record.folder)
        prompt_ids, masks = predictions.prompt_ids, (
            predictions.masks if source == "student" else predictions.together
        )
    if masks.shape[1] != num_points:
        raise UserError(
            f"{record.folder}: expected masks over the {num_points} points of the first run's scan "
            f"{record.scene}, found {masks.shape[1]}. Compare runs of the same scans."
        )
    return dict(zip(prompt_ids, masks, strict=True))
