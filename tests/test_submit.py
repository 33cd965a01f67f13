"""``submit`` and what ``status`` tells of it, with stubs of Slurm's commands on PATH."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import process, slurm, submissions
from pipeline.batch_scripts import batch_script, exports
from pipeline.submissions import JobState, Submission, element_states, rest_state, submitted
from tests import two_runs
from tests.tiny_set import write_set
from tests.two_runs import Ask, Runs

# Pytest finds a module's fixtures by name.
made, runs, ask = two_runs.made, two_runs.runs, two_runs.ask
RECORD = Submission("tiny.yaml", "", "", 3, "RunAll", "40", "41")


def stub(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def stubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that comes first on PATH: an sbatch that numbers jobs, and notes how it is called."""
    folder = tmp_path / "bin"
    calls = folder / "calls"
    stub(folder, "sbatch", f'echo "$@" >> {calls}; echo "$((40 + $(wc -l < {calls})));cluster"')
    stub(folder, "squeue", "true")
    stub(folder, "scancel", f'echo "scancel $@" >> {calls}')
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return folder


@pytest.fixture
def scene_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A set of two rooms to train and one to ask, in the current folder."""
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "tiny.yaml")
    return "tiny.yaml"


def only_folder(tmp_path: Path) -> Path:
    (folder,) = (tmp_path / "output" / "tiny" / "slurm").iterdir()
    return folder


def directives(script: str) -> list[str]:
    return [line for line in script.splitlines() if line.startswith("#SBATCH")]


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
        (["--array", "2", "--task", "Finetune"], "--task: Finetune needs more"),
        (["--array", "2", "--sbatch-option", "--exclusive"], "without dashes"),
        (["--array", "2", "--sbatch-option", "a b=c"], "without dashes"),
        (["--array", "2", "--sbatch-option", "arr=0-9"], "array is set by submit itself"),
        (["--array", "2", "--sbatch-option", "part=gpu"], "an option of its own: --partition"),
        (["--array", "2", "--account", "a\nb"], "--account: expected one line"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_submitted(
    stubs: Path, scene_set: str, tmp_path: Path, ask: Ask, options: list[str], told: str
) -> None:
    assert told in ask("submit", "--scene-set", scene_set, *options, code=2)
    assert not (stubs / "calls").exists()
    assert not list(tmp_path.rglob("*.sh")) and not list(tmp_path.rglob(submissions.RECORD))


def test_a_wrong_scene_set_and_a_missing_sbatch_are_one_clear_error(
    stubs: Path, scene_set: str, tmp_path: Path, ask: Ask
) -> None:
    wrong = ask("submit", "--scene-set", "none", "--array", "1", code=2)
    assert "no scene set 'none'" in wrong
    (stubs / "sbatch").unlink()
    for name in ("/usr/bin/sbatch", "/bin/sbatch"):
        if Path(name).exists():
            os.environ["PATH"] = str(stubs)  # Restored by the fixture.
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
    assert not list(tmp_path.rglob(submissions.RECORD))
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
    assert element_states(folder, RECORD, timed_out)[2].why == "timeout exit code 30"
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
    (tmp_path / "slurm" / "4" / submissions.RECORD).write_text('{"array_job": 4}')
    lines = list(submitted(tmp_path, every=False))
    assert lines[0].startswith(f"damaged: {tmp_path}/slurm/4/")
    assert [line.split()[1][0] for line in lines if line.startswith("submitted")] == ["3", "2"]
    assert lines[-1] == "... and 2 earlier submissions; --scenes shows all"
    assert sum(line.startswith("submitted") for line in submitted(tmp_path, every=True)) == 4


def test_squeue_is_asked_once_and_its_silence_is_no_error(stubs: Path) -> None:
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
    os.environ["PATH"] = str(stubs / "nothing")  # Restored by the fixture.
    assert slurm.states(["40"]) is None and slurm.states([]) == {}


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
