"""Slurm: submitting jobs, batch scripts, and the states of submitted jobs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from data.artifacts.store import is_complete, write_text_atomic
from data.errors import ConfigError, Failure, UserError
from pipeline.plan import Plan, load_plan
from pipeline.process.progress import table
from pipeline.tasks.shards import are_prepared, shards_of

StateName = Literal["pending", "running", "done", "failed"]

# Slurm's "JOB STATE CODES" (man squeue); COMPLETED is done, all other states are failures.
_PENDING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD")
_RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")
_JOB_ID = re.compile(r"(\d+)(;\S+)?")
_SECONDS_TO_SUBMIT, _SECONDS_TO_ASK = 120, 5


def require_sbatch() -> None:
    """Raise UserError where Slurm's commands are not on PATH."""
    if shutil.which("sbatch") is None:
        raise UserError(
            "sbatch: expected Slurm's commands on PATH, found none. Submit from a machine that has "
            "them, such as the cluster's login node; --dry-run prints the scripts anywhere."
        )


def sbatch(arguments: Sequence[str], script: Path) -> str:
    """Submit ``script`` and return the job's id; Failure with Slurm's message when it refuses."""
    run = _run(["sbatch", "--parsable", *arguments, str(script)], _SECONDS_TO_SUBMIT)
    printed = run.stdout.strip()
    # A cluster's name may follow the id: "123;cluster".
    match = _JOB_ID.fullmatch(printed.splitlines()[-1] if printed else "")
    if run.returncode or match is None:
        message = run.stderr.strip() or printed or f"exit code {run.returncode}"
        raise Failure(f"sbatch refused {script}: {message}")
    return match[1]


def scancel(job: str) -> None:
    """Cancel a job; Failure where scancel cannot run."""
    _run(["scancel", job], _SECONDS_TO_SUBMIT)


def states(jobs: Sequence[str]) -> dict[str, tuple[str, str]] | None:
    """State and host of jobs that Slurm still knows, by job id or array element id.

    Ids are "12" or "12_3". Slurm forgets jobs some minutes after their end. None where there is no
    Slurm, or where it does not answer.
    """
    if not jobs:
        return {}
    if shutil.which("squeue") is None:
        return None
    # squeue fails for a single unknown id and skips an unknown id among several.
    line = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%N"]
    try:
        run = _run([*line, f"--jobs={','.join([*jobs, jobs[0]])}"], _SECONDS_TO_ASK)
    except Failure:
        return None
    if run.returncode:
        return None
    rows = [row.split("|") for row in run.stdout.splitlines()]
    return {row[0].strip(): (row[1], row[2].strip()) for row in rows if len(row) == 3}


def state_name(slurm_state: str) -> StateName:
    """Our name of a Slurm state."""
    if slurm_state in _PENDING:
        return "pending"
    if slurm_state in _RUNNING:
        return "running"
    return "done" if slurm_state == "COMPLETED" else "failed"


def _run(line: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(line, capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failure(f"{line[0]}: {error}") from error


MOST_REQUEUES = 10
"""Number of times a job requeues itself; a job without progress must end at some time."""
ELEMENT_NUMBER = "$SLURM_ARRAY_TASK_ID"
"""Stands for the number of the array element in a command."""
_WARNING_SECONDS = 90
_PATHS = ("MLLM3D_DATA", "MLLM3D_WEIGHTS", "MLLM3D_SCAN", "LUIGI_CONFIG_PATH")
_PATH_LISTS = ("PYTHONPATH",)

_SCRIPT = """\
#!/bin/bash
{directives}

{exports}
job={job}
notes={notes}

note() {{ echo "$*" >> "$notes"; }}

again() {{
    # A requeued job gets the stop signal a second time.
    trap '' TERM USR1
    if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {most} ] &&
        [ "$(squeue --noheader --jobs="$job" --format=%T)" = RUNNING ]; then
        note "requeued after $code"
        scontrol requeue "$job" && exit 0
    fi
}}

stop() {{
    trap '' TERM USR1
    kill -TERM "$run" 2>/dev/null
    wait "$run"
    code=$?
    again
    note "ended $code"
    exit "$code"
}}

note "started ${{SLURMD_NODENAME:-$HOSTNAME}}"
{command} &
run=$!
trap stop TERM USR1
wait "$run"
code=$?
case $code in
    130 | 137 | 143) again ;;
esac
note "ended $code"
exit "$code"
"""


def exports(output: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables for the jobs, with absolute paths.

    Some sites start jobs in an empty environment. ``output`` is the folder for artifacts.
    """
    variables = {"MLLM3D_OUTPUT": str(output)}
    for name in (*_PATHS, *_PATH_LISTS):
        value = environment.get(name)
        if value:
            paths = value.split(os.pathsep) if name in _PATH_LISTS else [value]
            variables[name] = os.pathsep.join(os.path.abspath(path) for path in paths)
    return variables


def batch_script(
    options: Sequence[tuple[str, str]],
    variables: Mapping[str, str],
    command: Sequence[str],
    name: str,
    folder: Path,
    is_array: bool,
) -> str:
    """A script that runs ``command`` with sbatch's ``options``; ConfigError for a line break.

    ``name`` is the name of its log and notes files in ``folder``. Each element of an array has its
    own, and ``$SLURM_ARRAY_TASK_ID`` in the command stands for the element's number.
    """
    # Slurm reads % in a log's name as the start of a field.
    log = str(folder).replace("%", "%%") + f"/{name}{'-%a' if is_array else ''}.log"
    own_options = [
        ("output", log),
        ("open-mode", "append"),
        ("requeue", ""),
    ]
    if any(key == "time" for key, _ in options):
        # Without a time limit Slurm 22.05 signals a requeued job at once.
        own_options.append(("signal", f"B:USR1@{_WARNING_SECONDS}"))
    # The last element's job id is the array's id: requeuing it would requeue all elements.
    job_id = "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" if is_array else "$SLURM_JOB_ID"
    notes = shlex.quote(str(folder / name)) + ('-"$SLURM_ARRAY_TASK_ID"' if is_array else "")
    return _SCRIPT.format(
        directives="\n".join(_directive(*option) for option in [*options, *own_options]),
        exports="\n".join(f"export {key}={shlex.quote(text)}" for key, text in variables.items()),
        job=f'"{job_id}"',
        notes=notes + ".notes",
        most=MOST_REQUEUES,
        command=" ".join(map(_word, command)),
    )


def _word(text: str) -> str:
    return f'"{text}"' if text == ELEMENT_NUMBER else shlex.quote(text)


def _directive(key: str, value: str) -> str:
    if "\n" in value or "\r" in value:
        raise ConfigError(f"--{key}: expected one line, found {value!r}")
    return f"#SBATCH --{key}={shlex.quote(value)}" if value else f"#SBATCH --{key}"


FOLDER, RECORD = "slurm", "submission.json"
ELEMENT, REST = "element", "rest"
_MOST_SUBMISSIONS, _MOST_ROWS = 3, 16


@dataclass(frozen=True)
class Submission:
    """Record of one call of ``submit``; ``rest_job`` is empty until the second job is sent."""

    scene_set: str
    config: str
    overrides: str
    num_shards: int
    task: str
    array_job: str
    rest_job: str = ""

    def write(self, folder: Path) -> None:
        """Write the record into the submission's folder."""
        write_text_atomic(folder / RECORD, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Submission:
        """Read the record of a folder; ValueError for a damaged record."""
        content = json.loads((folder / RECORD).read_text())
        types = {field.name: int if field.name == "num_shards" else str for field in fields(cls)}
        if not isinstance(content, dict) or content.keys() != types.keys():
            raise ValueError(f"expected {', '.join(types)}")
        if not all(isinstance(content[name], type_) for name, type_ in types.items()):
            raise ValueError("a value has another type")
        return cls(**content)


@dataclass(frozen=True)
class JobState:
    """State of a job.

    Attributes:
        name: pending, running, done or failed.
        host: host on which it runs or ran.
        why: reason of the state.
        scenes: number of finished scenes and of all its scenes.
    """

    name: StateName
    host: str = ""
    why: str = ""
    scenes: tuple[int, int] | None = None


def submitted(root: Path, every: bool) -> Iterator[str]:
    """Lines on a scene set's submissions, newest first; no line without submissions.

    ``root`` is ``<output>/<scene set>``; ``every`` shows all submissions and all array elements.
    """
    folders = sorted((path.parent for path in (root / FOLDER).glob(f"*/{RECORD}")), reverse=True)
    shown = folders if every else folders[:_MOST_SUBMISSIONS]
    submissions: dict[Path, Submission] = {}
    for folder in shown:
        try:
            submissions[folder] = Submission.read(folder)
        except (OSError, ValueError) as error:
            yield f"damaged: {folder / RECORD}: {error}"
    jobs = [job for each in submissions.values() for job in (each.array_job, each.rest_job) if job]
    known_jobs = states(jobs)
    if known_jobs is None:
        yield "submitted jobs: no Slurm answers here; states are from caches and the jobs' notes"
    for folder, submission in submissions.items():
        yield from _lines(folder, submission, known_jobs, None if every else _MOST_ROWS)
    if len(folders) > len(shown):
        yield f"... and {len(folders) - len(shown)} earlier submissions; --scenes shows all"


def _lines(
    folder: Path,
    submission: Submission,
    known_jobs: Mapping[str, tuple[str, str]] | None,
    most_rows: int | None,
) -> Iterator[str]:
    overrides = f" --overrides {submission.overrides}" if submission.overrides else ""
    config = f" --config {submission.config}" if submission.config else ""
    jobs = f"array {submission.array_job}, then {submission.task}"
    yield f"submitted {folder.name}{config}{overrides}: {jobs}"
    states = element_states(folder, submission, known_jobs)
    rows = [(f"element {index}", state) for index, state in enumerate(states)]
    if most_rows is not None and len(rows) > most_rows:
        # Finished elements are only counted.
        open_rows = [row for row in rows if row[1].name != "done"]
        yield f"{len(rows) - len(open_rows)} of {len(rows)} elements done; --scenes shows all"
        rows = open_rows[:most_rows]
    rows.append((submission.task, rest_state(folder, submission, known_jobs)))
    cells = [[name, *_cells(state)] for name, state in rows]
    yield from table([["job", "scenes", "state", "host", ""], *cells], left=4)
    if any(state.name == "failed" for _, state in rows):
        yield f"logs: {folder}"


def _cells(state: JobState) -> list[str]:
    scenes = "-" if state.scenes is None else "{}/{}".format(*state.scenes)
    return [scenes, state.name, state.host or "-", state.why]


def element_states(
    folder: Path, submission: Submission, known_jobs: Mapping[str, tuple[str, str]] | None
) -> list[JobState]:
    """States of a submission's array elements; ``known_jobs`` from Slurm, None without Slurm."""
    states = []
    for index, keys in enumerate(_caches(submission)):
        notes = _notes(folder / f"{ELEMENT}-{index}.notes")
        state = _state(known_jobs, f"{submission.array_job}_{index}", notes)
        if keys is not None:
            done = sum(keys)
            state = _with_caches(state, done, len(keys))
        elif state.name == "done":
            state = JobState(
                "failed", state.host, "its caches were removed, or its config has changed"
            )
        states.append(state)
    return states


def rest_state(
    folder: Path, submission: Submission, known_jobs: Mapping[str, tuple[str, str]] | None
) -> JobState:
    """State of the job that follows the array."""
    if not submission.rest_job:
        return JobState("failed", why="was not submitted")
    return _state(known_jobs, submission.rest_job, _notes(folder / f"{REST}.notes"))


def _caches(submission: Submission) -> Sequence[Sequence[bool] | None]:
    """For each shard, whether its scenes' caches exist; None where the shards are not known yet."""
    unknown = [None] * submission.num_shards
    try:
        plan: Plan = load_plan(submission.scene_set, submission.config, submission.overrides)
        if not are_prepared(plan):
            return unknown
        return [
            [is_complete(plan.key("run_teacher", name)) for name in shard]
            for shard in shards_of(plan, submission.num_shards)
        ]
    except UserError:  # The config or scene set file was removed since.
        return unknown


def _with_caches(state: JobState, done: int, total: int) -> JobState:
    if done == total:
        return JobState("done", state.host, scenes=(done, total))
    if state.name == "done":
        return JobState(
            "failed", state.host, "ended without error, but caches are missing", (done, total)
        )
    return JobState(state.name, state.host, state.why, (done, total))


def _state(
    known_jobs: Mapping[str, tuple[str, str]] | None, job: str, notes: list[str]
) -> JobState:
    """State of a job, from Slurm or else from its notes."""
    kind, _, value = notes[-1].partition(" ") if notes else ("", "", "")
    hosts = [note.partition(" ")[2] for note in notes if note.startswith("started ")]
    host = hosts[-1] if hosts else ""
    requeues = sum(note.startswith("requeued") for note in notes)
    requeued_text = f"requeued {requeues} x" if requeues else ""
    exit_text = f"exit code {value}" if kind == "ended" and value != "0" else ""
    if known_jobs is not None and job in known_jobs:
        slurm_state, slurm_host = known_jobs[job]
        name = state_name(slurm_state)
        why = _joined(slurm_state.lower(), exit_text) if name == "failed" else requeued_text
        return JobState(name, slurm_host if name == "running" else host, why)
    if kind == "ended":
        return JobState(
            "done" if value == "0" else "failed", host, _joined(requeued_text, exit_text)
        )
    if known_jobs is not None:  # Slurm has forgotten the job, and the job wrote no note of its end.
        return JobState("failed", host, "cancelled, or lost with its node")
    return JobState("running" if kind == "started" else "pending", host, requeued_text)


def _joined(*texts: str) -> str:
    return ", ".join(filter(None, texts))


def _notes(path: Path) -> list[str]:
    try:
        return path.read_text().split("\n")[:-1]
    except OSError:
        return []
