"""Batch scripts as a shell runs them, and the cores that their runs take."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.process import process
from pipeline.workers.slurm import batch_script, exports
from tests.support import slurm_stubs
from tests.support.slurm_stubs import directives, stub

# Pytest finds a module's fixtures by name.
stubs = slurm_stubs.stubs


def test_a_script_is_what_a_shell_runs_word_for_word(tmp_path: Path) -> None:
    """Run by bash as Slurm would, it passes on every word, and notes how it ended."""
    odd = "a 'b' \"c\" $HOME `id` \\ %j;&|*"
    folder = tmp_path / "it's $HOME"
    folder.mkdir()
    seen = tmp_path / "seen"
    code = "import os, sys; open(sys.argv[1], 'w').write(repr([*sys.argv[2:], os.environ['X']]))"
    line = [sys.executable, "-c", f"{code}; sys.exit(3)", str(seen), odd, "$SLURM_ARRAY_TASK_ID"]
    script = batch_script([("comment", odd)], {"X": odd}, line, "element", folder, is_array=True)
    env = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_JOB_ID": "5", "PATH": os.environ["PATH"]}
    run = subprocess.run(["bash", "-c", script], env=env, check=False)
    assert run.returncode == 3
    assert seen.read_text() == repr([odd, "7", odd])
    told = (folder / "element-7.notes").read_text().splitlines()
    assert told[0].startswith("started ") and told[1:] == ["ended 3"]


@pytest.mark.parametrize(
    ("state", "restarts", "code", "expected"),
    [
        ("RUNNING", "0", 137, "requeued after 137"),
        ("RUNNING", "0", 130, "requeued after 130"),
        ("RUNNING", "9", 143, "requeued after 143"),
        ("RUNNING", "10", 137, "ended 137"),
        ("COMPLETING", "0", 130, "ended 130"),
        ("RUNNING", "0", 30, "ended 30"),
        ("RUNNING", "0", 0, "ended 0"),
    ],
)
def test_a_job_goes_back_into_the_queue_when_it_was_stopped_and_not_cancelled(
    stubs: Path, tmp_path: Path, state: str, restarts: str, code: int, expected: str
) -> None:
    calls = stubs / "calls"
    stub(stubs, "squeue", f'echo "squeue $@" >> {calls}; echo {state}')
    stub(stubs, "scontrol", f'echo "scontrol $@" >> {calls}')
    script = batch_script([], {}, ["sh", "-c", f"exit {code}"], "element", tmp_path, is_array=True)
    env = {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2", "SLURM_JOB_ID": "5"}
    env |= {"SLURM_RESTART_COUNT": restarts, "PATH": os.environ["PATH"]}
    subprocess.run(["bash", "-c", script], env=env, check=False)
    assert (tmp_path / "element-2.notes").read_text().splitlines()[1:] == [expected]
    was_put_back = expected.startswith("requeued")
    asked = calls.read_text().splitlines() if calls.exists() else []
    # Element 2 alone: job 5 would be the whole array.
    assert ("scontrol requeue 5_2" in asked) == was_put_back
    assert not any(line.startswith("scontrol requeue") for line in asked if not was_put_back)


def test_options_of_slurm_are_quoted_and_paths_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"MLLM3D_DATA": "sets", "PYTHONPATH": f"a{os.pathsep}/b", "HOME": "/h", "PATH": "/p"}
    found = exports(Path("/out"), given)
    lists = f"{tmp_path}/a{os.pathsep}/b"
    expected = {"MLLM3D_OUTPUT": "/out", "MLLM3D_DATA": f"{tmp_path}/sets", "PYTHONPATH": lists}
    assert found == expected
    options = [("comment", "it's mine"), ("exclusive", "")]
    script = batch_script(options, found, ["true"], "rest", tmp_path / "50%", is_array=False)
    assert directives(script)[:3] == [
        "#SBATCH --comment='it'\"'\"'s mine'",
        "#SBATCH --exclusive",
        f"#SBATCH --output={tmp_path}/50%%/rest.log",
    ]
    assert "--signal" not in script  # Nothing to be warned of without a limit.


def test_cores_are_those_that_were_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.delenv(process.GRANTED, raising=False)
    assert process.num_cores() == 3
    for granted, expected in (("2", 2), ("8", 3), ("1", 1), ("", 3), ("x", 3), ("0", 1)):
        monkeypatch.setenv(process.GRANTED, granted)
        assert process.num_cores() == expected


def test_luigi_starts_no_more_workers_than_cores_were_granted(tmp_path: Path) -> None:
    code = "import luigi, pipeline; print(luigi.interface.core().workers)"
    env = {**os.environ, process.GRANTED: "1"}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
    assert run.stdout == b"1\n"
