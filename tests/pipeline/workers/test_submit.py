"""``submit`` with stubs of Slurm's commands: what it sends, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipeline.workers import slurm
from pipeline.workers.slurm import Submission
from tests.support import slurm_stubs, two_runs
from tests.support.slurm_stubs import directives, stub
from tests.support.two_runs import Ask

# Pytest finds a module's fixtures by name.
stubs, scene_set, ask = slurm_stubs.stubs, slurm_stubs.scene_set, two_runs.ask


def only_folder(tmp_path: Path) -> Path:
    (folder,) = (tmp_path / "output" / "tiny" / "slurm").iterdir()
    return folder


def command_of(script: str) -> str:
    """The script's one command that runs in the background."""
    (line,) = [line for line in script.splitlines() if line.endswith(" &")]
    return line.removesuffix(" &")


def test_both_jobs_are_written_and_submitted(
    stubs: Path, scene_set: str, tmp_path: Path, ask: Ask
) -> None:
    resources = ["--partition", "gpu", "--time", "8:00:00", "--gpus-per-task", "1", "--mem", "32G"]
    more = ["--rest-partition", "cpu", "--rest-gpus-per-task", "0", "--account", "lab"]
    line = ["submit", "--scene-set", scene_set, "--overrides", "student.lr=0.02"]
    page = ask(*line, "--array", "3", "--limit", "2", *resources, *more, "--workers", "3")
    folder = only_folder(tmp_path)
    array, rest = ((folder / name).read_text() for name in ("array.sh", "rest.sh"))
    assert directives(array) == [
        "#SBATCH --job-name=tiny-teacher",
        "#SBATCH --array=0-2%2",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks=1",
        f"#SBATCH --chdir={tmp_path}",
        "#SBATCH --partition=gpu",
        "#SBATCH --time=8:00:00",
        "#SBATCH --gpus-per-task=1",
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --mem=32G",
        "#SBATCH --account=lab",
        f"#SBATCH --output={folder}/element-%a.log",
        "#SBATCH --open-mode=append",
        "#SBATCH --requeue",
        "#SBATCH --signal=B:USR1@90",
    ]
    assert "#SBATCH --partition=cpu" in directives(rest) and "gpus" not in rest
    same = f"--scene-set {tmp_path}/tiny.yaml --overrides student.lr=0.02"
    python = f"{sys.executable} -m luigi --module pipeline"
    shards = '--num-shards 3 --shard-index "$SLURM_ARRAY_TASK_ID"'
    assert command_of(array) == f"{python} CacheTeacherMasks {same} {shards}"
    assert command_of(rest) == f"{python} RunAll {same} --workers 3"
    assert f"\nexport MLLM3D_OUTPUT={tmp_path}/output\n" in array and "HOME" not in array + rest
    after = "--parsable --dependency=afterok:41 --kill-on-invalid-dep=yes"
    calls = (stubs / "calls").read_text().splitlines()
    assert calls == [f"--parsable {folder}/array.sh", f"{after} {folder}/rest.sh"]
    expected = Submission(
        f"{tmp_path}/tiny.yaml", "", "student.lr=0.02", 3, "RunAll", "41", rest_job="42"
    )
    assert Submission.read(folder) == expected
    assert "array: job 41, 3 elements, 3 scenes" in page and "rest: job 42, RunAll" in page


def test_a_dry_run_prints_what_would_be_submitted_and_writes_nothing(
    stubs: Path, scene_set: str, tmp_path: Path, ask: Ask
) -> None:
    (stubs / "sbatch").unlink()
    options = ["--array", "2", "--sbatch-option", "constraint=a100", "--sbatch-option", "exclusive"]
    page = ask("submit", "--scene-set", scene_set, *options, "--dry-run")
    assert page.count("#!/bin/bash") == 2 and "#SBATCH --array=0-1\n" in page
    assert page.count("#SBATCH --constraint=a100\n#SBATCH --exclusive\n") == 2
    assert "afterok:ID_OF_THE_ARRAY" in page and not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--array", "4"], "--array: expected 1 to 3"),
        (["--array", "2", "--overrides", "student.lr=-1"], "student.lr"),
        (["--array", "2", "--config", "none.yaml"], "none.yaml"),
        (["--array", "2", "--task", "Nonsense"], "--task: expected a task"),
        (["--array", "2", "--task", "ConvertReason3D"], "--task: expected a task"),
        (["--array", "2", "--task", "Finetune"], "Finetune: expected a student, found none"),
        (["--array", "2", "--sbatch-option=--exclusive"], "without dashes"),
        (["--array", "2", "--sbatch-option", "a b=c"], "without dashes"),
        (["--array", "2", "--sbatch-option", "arr=0-9"], "submit sets array itself"),
        (["--array", "2", "--sbatch-option", "part=gpu"], "use submit's own option --partition"),
        (["--array", "2", "--account", "a\nb"], "--account: expected one line"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_submitted(
    stubs: Path, scene_set: str, tmp_path: Path, ask: Ask, options: list[str], told: str
) -> None:
    assert told in ask("submit", "--scene-set", scene_set, *options, code=2)
    assert not (stubs / "calls").exists()
    assert not (tmp_path / "output").exists()


def test_a_wrong_scene_set_and_a_missing_sbatch_are_one_clear_error(
    stubs: Path, scene_set: str, tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = ask("submit", "--scene-set", "none", "--array", "1", code=2)
    assert "no scene set 'none'" in wrong
    (stubs / "sbatch").unlink()
    monkeypatch.setenv("PATH", str(stubs))
    assert "expected Slurm's commands" in ask(
        "submit", "--scene-set", scene_set, "--array", "1", code=2
    )
    assert not (tmp_path / "output").exists()


def test_an_sbatch_that_fails_is_told_in_its_words_and_leaves_no_array_behind(
    stubs: Path, scene_set: str, tmp_path: Path, ask: Ask
) -> None:
    working = (stubs / "sbatch").read_text()
    stub(stubs, "sbatch", "echo 'sbatch: error: invalid partition' >&2; exit 1")
    line = ("submit", "--scene-set", scene_set, "--array", "2")
    assert "sbatch: error: invalid partition" in ask(*line, code=1)
    assert not list(tmp_path.rglob(slurm.RECORD))
    refuse = 'case "$*" in *rest.sh) echo "no such qos" >&2; exit 1;; esac'
    stub(stubs, "sbatch", f"{refuse}\n{working}")
    told = ask(*line, code=1)
    assert "no such qos" in told and "the array, job 41, was cancelled" in told
    assert (stubs / "calls").read_text().splitlines()[-1] == "scancel 41"


@pytest.mark.parametrize("answer", ["", "nonsense", "12 34"])
def test_an_answer_without_a_job_is_refused(
    stubs: Path, scene_set: str, ask: Ask, answer: str
) -> None:
    stub(stubs, "sbatch", f"echo '{answer}'")
    assert "sbatch refused" in ask("submit", "--scene-set", scene_set, "--array", "1", code=1)
