"""What ``status`` tells of submitted jobs: Slurm's word, the jobs' own notes, the caches."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.workers import slurm
from pipeline.workers.slurm import JobState, Submission, element_states, rest_state, submitted
from tests.support import slurm_stubs, two_runs
from tests.support.slurm_stubs import stub
from tests.support.two_runs import Ask, Runs

# Pytest finds a module's fixtures by name.
stubs, scene_set = slurm_stubs.stubs, slurm_stubs.scene_set
made, runs, ask = two_runs.made, two_runs.runs, two_runs.ask
RECORD = Submission("tiny.yaml", "", "", 3, "RunAll", "40", "41")


def record(root: Path, time: str, submission: Submission) -> Path:
    folder = root / "slurm" / time
    folder.mkdir(parents=True)
    submission.write(folder)
    return folder


def test_elements_are_what_slurm_says_and_then_what_their_notes_say(
    scene_set: str, tmp_path: Path
) -> None:
    folder = record(tmp_path, "1", RECORD)
    (folder / "element-1.notes").write_text("started n1\nrequeued after 137\nstarted n2\n")
    (folder / "element-2.notes").write_text("started n3\nended 30\n")
    asked = {"40_0": ("PENDING", ""), "40_1": ("RUNNING", "n2"), "41": ("PENDING", "")}
    pending, failed = JobState("pending"), JobState("failed", "n3", "exit code 30")
    again = JobState("running", "n2", "requeued 1 x")
    assert element_states(folder, RECORD, asked) == [pending, again, failed]
    assert rest_state(folder, RECORD, asked) == pending
    # No Slurm here: notes alone.
    assert element_states(folder, RECORD, None) == [pending, again, failed]
    # Slurm has forgotten what never told its end.
    lost = [JobState("failed", host, "cancelled, or lost with its node") for host in ("", "n2")]
    assert element_states(folder, RECORD, {}) == [*lost, failed]
    timed_out = {"40_2": ("TIMEOUT", "n3")}
    assert element_states(folder, RECORD, timed_out)[2].why == "timeout, exit code 30"
    (folder / "rest.notes").write_text("started n4\nended 0\n")
    assert rest_state(folder, RECORD, {}) == JobState("done", "n4")


def test_status_counts_an_elements_caches(
    made: Runs, runs: Runs, stubs: Path, ask: Ask, tmp_path: Path
) -> None:
    """A finished run: whatever Slurm says, the elements are done."""
    one = Submission(made.scene_set, "", "", 3, "RunAll", "40", "41")
    folder = record(made.output, "20260101-000000", one)
    stub(stubs, "squeue", "echo '40_0|PENDING|'; echo '41|PENDING|'")
    page = ask("status", "--scene-set", made.scene_set)
    assert f"submitted {folder.name}: array 40, then RunAll" in page
    cells = [line.split() for line in page.splitlines() if line.startswith(("element", "RunAll "))]
    elements = [["element", str(index), "1/1", "done", "-"] for index in range(3)]
    assert cells == [*elements, ["RunAll", "-", "pending", "-"]]
    other = Submission(made.scene_set, "", "teacher.oracle.miss=0.5", 3, "RunAll", "50", "51")
    record(made.output, "20260101-000001", other)
    stub(stubs, "squeue", "echo '50_1|RUNNING|n1'; echo '51|PENDING|'")
    page = ask("status", "--scene-set", made.scene_set)
    newest = page[page.index("submitted 20260101-000001") : page.index("submitted 20260101-000000")]
    assert "element 1  0/1     running  n1" in newest and "element 0  0/1     failed" in newest


def test_old_submissions_finished_elements_and_damage_are_told_briefly(
    scene_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "states", lambda jobs: {})
    assert not list(submitted(tmp_path, every=False))
    for number in range(5):
        record(tmp_path, str(number), RECORD)
    (tmp_path / "slurm" / "4" / slurm.RECORD).write_text('{"array_job": 4}')
    lines = list(submitted(tmp_path, every=False))
    assert lines[0].startswith(f"damaged: {tmp_path}/slurm/4/")
    assert [line.split()[1][0] for line in lines if line.startswith("submitted")] == ["3", "2"]
    assert lines[-1] == "... and 2 earlier submissions; --scenes shows all"
    assert sum(line.startswith("submitted") for line in submitted(tmp_path, every=True)) == 4


def test_squeue_is_asked_once_and_its_silence_is_no_error(
    stubs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(stubs, "squeue", f'echo "$@" > {stubs}/asked; echo "40_0|RUNNING|n1 "; echo "41|FAILED|"')
    assert slurm.states(["40", "41"]) == {"40_0": ("RUNNING", "n1"), "41": ("FAILED", "")}
    assert "--jobs=40,41,40" in (stubs / "asked").read_text()
    assert [slurm.state_name(name) for name in ("RUNNING", "OUT_OF_MEMORY", "COMPLETED")] == [
        "running",
        "failed",
        "done",
    ]
    stub(stubs, "squeue", "exit 1")
    assert slurm.states(["40"]) is None
    monkeypatch.setenv("PATH", str(stubs / "nothing"))
    assert slurm.states(["40"]) is None and slurm.states([]) == {}
