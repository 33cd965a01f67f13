"""Luigi tasks that convert published data before a run: Reason3D's queries, ScanNet++'s scans."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import luigi
import yaml

from data.artifacts.store import canonical_json, write_text_atomic
from data.errors import ConfigError, DataError, UserError
from pipeline.config import read_yaml_mapping
from pipeline.plan import Plan, load_plan, output_root
from pipeline.process import process
from pipeline.scene_sets import packaged_sets
from pipeline.steps.scans import PREPARE_SCENE
from pipeline.tasks.base import ArtifactTask, ReadableTask
from pipeline.tasks.steps import StepTask, task_of

if TYPE_CHECKING:
    from data.queries.formats import FormatName
    from data.queries.prompts import PromptRecord

_LOG = logging.getLogger("luigi-interface.conversion")
_REPORT = "report.json"
_VERSION = 1


class ConvertReason3D(ReadableTask):
    """Convert Reason3D's published data to this project's query files, with a report.

    The parameters ``input`` and ``output`` are folders. They replace Luigi's methods of that name,
    so ``complete`` does not use targets.
    """

    input = luigi.Parameter(  # type: ignore[assignment]
        description="folder with Reason3D's .json and .pth files"
    )
    output = luigi.Parameter(  # type: ignore[assignment]
        description="folder for the converted query files"
    )

    def identity(self) -> str:
        """Fingerprint of the input: names, sizes and times of its files."""
        stamps = [_VERSION, *((p.name, s.st_size, s.st_mtime_ns) for p, s in _files(self.input))]
        return hashlib.sha256(canonical_json(stamps).encode()).hexdigest()

    def complete(self) -> bool:
        """Whether the report is of this input and the files it names exist."""
        folder = Path(self.output)
        try:
            report = json.loads((folder / _REPORT).read_text())
            written = [name for name, entry in report["files"].items() if "queries" in entry]
            all_exist = all((folder / name).is_file() for name in written)
            return bool(report["input"] == self.identity() and all_exist)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError):
            return False

    def run(self) -> None:
        """Convert every query file; DataError for a folder without one, or a damaged file."""
        process.set_parent_death_signal()
        source, folder = Path(self.input), Path(self.output)
        if source.resolve() == folder.resolve():
            raise ConfigError(
                "--output: expected a folder other than --input, found the same folder"
            )
        paths = [path for path, _ in _files(source) if path.suffix == ".json"]
        if not paths:
            remedy = "Name the folder with reason3d_train.json or ScanRefer's files."
            raise DataError(source, "query files (.json)", "none", remedy)
        report_files = {path.name: _convert(path, source, folder) for path in paths}
        if not any("queries" in entry for entry in report_files.values()):
            found = f"{', '.join(sorted(report_files)[:5])} of other formats"
            remedy = "Name the folder with reason3d_train.json or ScanRefer's files."
            raise DataError(source, "queries of Reason3D or ScanRefer", found, remedy)
        report = {"input": self.identity(), "files": report_files}
        write_text_atomic(folder / _REPORT, json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def _files(folder: str | Path) -> list[tuple[Path, Any]]:
    path = Path(folder)
    if not path.is_dir():
        raise DataError(path, "Reason3D's folder", "no such folder", "Name it with --input.")
    return [(entry, entry.stat()) for entry in sorted(path.iterdir()) if entry.is_file()]


def _format_of(path: Path) -> FormatName | None:
    """Format of a query file, by the fields of its first record; None for other JSON files."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        remedy = "Download this file again."
        raise DataError(path, "a JSON file", str(error), remedy) from error
    first = content[0] if isinstance(content, list) and content else None
    keys = set(first) if isinstance(first, dict) else set()
    if {"scene_id", "object_id", "question", "type"} <= keys:
        return "reason3d"
    return "scanrefer" if {"scene_id", "object_id", "description", "ann_id"} <= keys else None


def _convert(path: Path, source: Path, folder: Path) -> dict[str, Any]:
    """Convert one query file into ``folder``; returns its entry of the report."""
    from data.queries.formats import FORMATS
    from data.queries.reason3d_points import LabelledPoints, read_labelled_points
    from stages.queries import convert_reason3d as stage

    format_name = _format_of(path)
    if format_name is None:
        return {"left": "no query file of Reason3D or ScanRefer"}
    suffix = "reason" if format_name == "reason3d" else "refer"
    points_in_memory: dict[str, LabelledPoints | None] = {}

    def points_of(record: PromptRecord) -> LabelledPoints | None:
        if record.scene_id not in points_in_memory:
            points_in_memory.clear()
            file = source / f"{record.scene_id}_{suffix}.pth"
            points_in_memory[record.scene_id] = (
                read_labelled_points(file) if file.is_file() else None
            )
        return points_in_memory[record.scene_id]

    # By scene, so that one point file is in memory at a time; written in the file's own order.
    records = sorted(FORMATS[format_name].read(path), key=lambda record: record.scene_id)
    converted = stage.run(records, points_of)
    order = {record.number: None for record in sorted(records, key=lambda r: r.number)}
    refused = {entry["record"]: entry for entry in converted.refused}
    numbers = [record.number for record in records if record.number not in refused]
    by_number = dict(zip(numbers, converted.queries, strict=True))
    queries = [by_number[number] for number in order if number in by_number]
    write_text_atomic(
        _existing_folder(folder) / path.name, json.dumps(queries, indent=1, ensure_ascii=False)
    )
    _LOG.info("%s: %d of %d queries converted", path.name, len(queries), len(records))
    if refused:
        _LOG.warning("%s: %d queries not converted, see %s", path.name, len(refused), _REPORT)
    return {
        "queries": len(queries),
        "of": len(records),
        "format": format_name,
        "refused": [refused[number] for number in order if number in refused],
        "notes": sorted(converted.notes, key=lambda note: int(note["record"])),
    }


def _existing_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class PreprocessScannetpp(ArtifactTask):
    """Check and prepare all scans of a ScanNet++ folder's splits, as ``PrepareScene`` does.

    The task writes the scene set ``scannetpp`` with this ``data_root`` to the output folder. A run
    on that set finds all scenes prepared.
    """

    data_root = luigi.Parameter(description="ScanNet++'s folder, which holds data/ and splits/")

    @cached_property
    def scene_set(self) -> str:
        """Path of the scene set, which the first access writes."""
        root = Path(self.data_root).expanduser().absolute()
        if not root.is_dir():
            remedy = "Name the folder that holds data/ and splits/."
            raise DataError(root, "ScanNet++'s folder (--data-root)", "no such folder", remedy)
        content: Mapping[str, Any] = {
            **read_yaml_mapping(packaged_sets()["scannetpp"]),
            "data_root": str(root),
        }
        digest = hashlib.sha256(str(root).encode()).hexdigest()[:8]
        folder = output_root() / "scene_sets" / digest
        path = _existing_folder(folder) / "scannetpp.yaml"
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text_atomic(path, text)
        return str(path)

    @property
    def plan(self) -> Plan:
        """The plan of that scene set."""
        return load_plan(self.scene_set, self.config, self.overrides)

    def check(self) -> None:
        """Refuse a folder without ScanNet++'s splits, and a wrong config."""
        self.plan.scenes()

    def requires(self) -> list[StepTask]:
        """The PrepareScene tasks of all scenes."""
        parameters = {"config": self.config, "overrides": self.overrides}
        task = task_of(PREPARE_SCENE)
        return [
            task(scene_set=self.scene_set, scene=scene, **parameters)
            for scene in self.plan.scenes()
        ]

    def make(self, key: Any) -> None:
        """Do nothing: there is no artifact of all scenes together."""

    def run(self) -> None:
        """Log the command that continues with the prepared scenes."""
        _LOG.info("prepared; continue with --scene-set %s", self.scene_set)
