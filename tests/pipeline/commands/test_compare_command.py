"""``compare`` from finished runs to a page and a table, and what it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data.artifacts.metadata import (
    CHECKSUM,
    content_checksum,
    metadata_text,
    read_metadata,
    sha256_of,
)
from pipeline.commands.compare import find_runs
from tests.support import two_runs
from tests.support.two_runs import SECOND, Ask, Runs, artifact, edit

# Pytest finds a module's fixtures by name.
made, runs, copied, ask = two_runs.made, two_runs.runs, two_runs.copied, two_runs.ask


def figures(page: str, name: str) -> list[str]:
    """The cells of the first row of that name that are separated by two blanks or more."""
    line = next(line for line in page.splitlines() if line.startswith(f"{name}  "))
    return [cell for cell in line.split("  ") if cell.strip()]


def rewrite(folder: Path, **changes: object) -> None:
    """Change every row of an evaluation, as if it had been written so."""
    path = folder / "queries.json"
    rows = [{**row, **changes} for row in json.loads(path.read_text())]
    path.write_text(json.dumps(rows))
    content = read_metadata(folder)
    assert content is not None
    content["files"][path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    content[CHECKSUM] = content_checksum(content)
    (folder / "metadata.json").write_text(metadata_text(content))


def test_two_runs_become_a_page_and_a_table(runs: Runs, ask: Ask, tmp_path: Path) -> None:
    first, second = (artifact(runs, "report", overrides) for overrides in ("", SECOND))
    out = tmp_path / "compare.html"
    told = ask("compare", first, runs.output, "--source", "student", "--out", out)
    assert told.startswith(f"run 1: {first}\nrun 2: {runs.output}\n")
    assert told.splitlines()[-1].startswith(f"{out}: ")
    one, two = (json.loads((folder / "metrics.json").read_text()) for folder in (first, second))
    assert f"{one['num_queries']} shared queries, student" in told
    names = {"mIoU": "miou", "Acc@0.25": "acc25", "Acc@0.50": "acc50", "cIoU": "ciou"}
    for name, key in {**names, "gIoU": "giou"}.items():
        values = [run["student"][key] for run in (one, two)]
        cells = [cell.strip() for cell in figures(told, name)]
        assert cells[1:3] == [f"{100 * value:.1f}" for value in values]
        change = float(cells[3].replace("−", "-"))
        assert change == pytest.approx(100 * (values[1] - values[0]), abs=0.051)
    inclusive = [run["student"]["conventions"]["inclusive"]["miou"] for run in (one, two)]
    cells = [cell.strip() for cell in figures(told, "mIoU, empty = 1")]
    assert cells[1:3] == [f"{100 * value:.1f}" for value in inclusive]
    page = out.read_text()
    for shown in ("train_student: student.lr", "0.01", "0.02", "Run 1: its teacher is an oracle"):
        assert shown in page
    assert artifact(runs, "evaluate").name in page
    assert "<article" in page
    again = tmp_path / "again.html"
    ask("compare", first, runs.output, "--source", "student", "--out", again)
    assert again.read_bytes() == out.read_bytes()


def test_the_lifted_labels_do_not_change_with_the_student(
    runs: Runs, ask: Ask, tmp_path: Path
) -> None:
    folders = [artifact(runs, "evaluate", overrides) for overrides in ("", SECOND)]
    line = ["--source", "fusion_only", "--out", tmp_path / "page.html"]
    told = ask("compare", *folders, *line)
    assert [cell.strip() for cell in figures(told, "mIoU")[3:]] == [
        "0.0",
        "[0.0, 0.0]",
        "0",
        "0",
        "1.000",
    ]
    assert "<article" not in (tmp_path / "page.html").read_text()


def test_a_run_without_its_masks_has_figures_alone(copied: Runs, ask: Ask, tmp_path: Path) -> None:
    folders = [artifact(copied, "evaluate", overrides) for overrides in ("", SECOND)]
    line = ["--source", "student", "--out", tmp_path / "page.html"]
    expected = ask("compare", *folders, *line).splitlines()[:-1]
    assert "<article" in (tmp_path / "page.html").read_text()
    shutil.rmtree(copied.output / "predict_masks")
    assert ask("compare", *folders, *line).splitlines()[:-1] == expected
    assert "<article" not in (tmp_path / "page.html").read_text()


def test_results_in_a_folder_of_their_own_stand_for_their_report(copied: Runs, ask: Ask) -> None:
    folder = copied.output / "finetuned"
    folder.mkdir()
    for name in ("latest.json", "metrics.json", "report.html"):
        shutil.copy(copied.output / name, folder)
    (found,) = find_runs([folder])
    assert found.record.folder == artifact(copied, "evaluate", SECOND)


def test_mistakes_are_one_line(copied: Runs, ask: Ask, tmp_path: Path) -> None:
    run, out = copied.output, tmp_path / "page.html"

    def refused(*line: object) -> str:
        told = ask("compare", *map(str, line), "--out", out, code=2)
        assert not out.exists()
        return told

    assert "expected two to six runs, found 1" in refused(run)
    assert "expected two to six runs, found 7" in refused(*[run] * 7)
    assert "nowhere: no such file" in refused(run, tmp_path / "nowhere")
    student = artifact(copied, "train_student")
    assert "expected an evaluated run, found an artifact of train_student" in refused(run, student)
    told = ask("compare", run, run, "--out", tmp_path / "no" / "page.html", code=2)
    assert "--out: expected a file in an existing folder" in told
    assert "--out" in ask("compare", run, run, "--out", tmp_path, code=2)


def test_damage_is_told_by_the_file(copied: Runs, ask: Ask, tmp_path: Path) -> None:
    one, two = (artifact(copied, "evaluate", overrides) for overrides in ("", SECOND))
    line = ("--source", "student", "--out", tmp_path / "page.html")
    masks = next((copied.output / "predict_masks").rglob("masks/zarr.json"))
    for path in (masks, two / "queries.json"):
        path.write_text("{")
        told = ask("compare", one, two, *line, code=2)
        assert str(path) in told and "expected the" in told
    (two / "metadata.json").write_text("{")
    assert str(two / "metadata.json") in ask("compare", one, two, *line, code=2)
    shutil.rmtree(two)
    told = ask("compare", one, artifact(copied, "report", SECOND), *line, code=2)
    assert "expected the report's evaluation" in told and "run Evaluate again" in told
    assert not (tmp_path / "page.html").exists()


def test_a_report_without_truth_cannot_be_compared(copied: Runs, ask: Ask) -> None:
    report = artifact(copied, "report")
    edit(report, inputs={"masks of a scene": "f" * 64})
    told = ask("compare", report, report, code=2)
    assert "expected an evaluated run" in told and "without ground truth" in told


def test_other_queries_and_other_truths_are_refused(copied: Runs, ask: Ask, tmp_path: Path) -> None:
    one, two = (artifact(copied, "evaluate", overrides) for overrides in ("", SECOND))
    line = ("--out", tmp_path / "page.html")
    rewrite(two, truth_points=10**6)
    assert "have a different truth" in ask("compare", one, two, *line, code=2)
    rewrite(two, text="something else")
    assert "no query in common" in ask("compare", one, two, *line, code=2)


def test_help_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from pipeline.__main__ import main\n"
        "try: main(['compare', '--help'])\n"
        "except SystemExit: print(sorted({'torch', 'numpy', 'scipy', 'zarr'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
