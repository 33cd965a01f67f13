"""Slurm: its commands, the scripts of jobs, and how far what was submitted is."""

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
from pipeline.tasks.shards import shards_of

StateName = Literal["pending", "running", "done", "failed"]

# Slurm's "JOB STATE CODES" (man squeue). What is in none of them has ended badly.
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
    """Submit ``script``; the job's id. Failure with Slurm's own words when it refuses."""
    run = _run(["sbatch", "--parsable", *arguments, str(script)], _SECONDS_TO_SUBMIT)
    printed = run.stdout.strip()
    # A cluster's name may follow the id: "123;cluster".
    match = _JOB_ID.fullmatch(printed.splitlines()[-1] if printed else "")
    if run.returncode or match is None:
        told = run.stderr.strip() or printed or f"exit code {run.returncode}"
        raise Failure(f"sbatch refused {script}: {told}")
    return match[1]


def scancel(job: str) -> None:
    """Cancel a job, as far as that can be done."""
    _run(["scancel", job], _SECONDS_TO_SUBMIT)


def states(jobs: Sequence[str]) -> dict[str, tuple[str, str]] | None:
    """Slurm's state and host of what it still knows of ``jobs``, by id; an array's by element.

    Ids are "12" or "12_3". It forgets jobs some minutes after their end. None where there is no
    Slurm to ask, or none that answers.
    """
    if not jobs:
        return {}
    if shutil.which("squeue") is None:
        return None
    # A single unknown id is an error to squeue, one of several is passed over.
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
    """One of Slurm's states as one of ours; COMPLETED is "done"."""
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
"""How often a job goes back into the queue by itself: one that gets nowhere must end some day."""
ELEMENT_NUMBER = "$SLURM_ARRAY_TASK_ID"
"""Stands in a command for the number of the array's element."""
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
    # Put back, the job is told to stop once more.
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
    """What the jobs must find in their environment, every path absolute.

    Sites may start jobs in an empty one. ``output`` is where artifacts go.
    """
    found = {"MLLM3D_OUTPUT": str(output)}
    for name in (*_PATHS, *_PATH_LISTS):
        value = environment.get(name)
        if value:
            paths = value.split(os.pathsep) if name in _PATH_LISTS else [value]
            found[name] = os.pathsep.join(os.path.abspath(path) for path in paths)
    return found


def batch_script(
    options: Sequence[tuple[str, str]],
    variables: Mapping[str, str],
    command: Sequence[str],
    name: str,
    folder: Path,
    is_array: bool,
) -> str:
    """A script that runs ``command`` under sbatch's ``options``; ConfigError for a line break.

    ``name`` is that of its log and notes in ``folder``; of an array they are one an element, and
    the words ``$SLURM_ARRAY_TASK_ID`` of the command its number.
    """
    # Slurm takes % in a log's name for the start of one of its fields.
    log = str(folder).replace("%", "%%") + f"/{name}{'-%a' if is_array else ''}.log"
    own = [
        ("output", log),
        ("open-mode", "append"),
        ("requeue", ""),
    ]
    if any(key == "time" for key, _ in options):
        # Without a limit Slurm 22.05 takes a requeued job's end for near, and warns it at once.
        own.append(("signal", f"B:USR1@{_WARNING_SECONDS}"))
    # The id alone of an array's last element is that of the array: all would be requeued.
    one = "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" if is_array else "$SLURM_JOB_ID"
    notes = shlex.quote(str(folder / name)) + ('-"$SLURM_ARRAY_TASK_ID"' if is_array else "")
    return _SCRIPT.format(
        directives="\n".join(_directive(*option) for option in [*options, *own]),
        exports="\n".join(f"export {key}={shlex.quote(text)}" for key, text in variables.items()),
        job=f'"{one}"',
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
    """What one call of ``submit`` sent; ``rest_job`` is empty until the second job is sent."""

    scene_set: str
    config: str
    overrides: str
    num_shards: int
    task: str
    array_job: str
    rest_job: str = ""

    def write(self, folder: Path) -> None:
        """Put the record into the submission's folder."""
        write_text_atomic(folder / RECORD, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Submission:
        """The record of a folder; ValueError for what is none."""
        content = json.loads((folder / RECORD).read_text())
        kinds = {field.name: int if field.name == "num_shards" else str for field in fields(cls)}
        if not isinstance(content, dict) or content.keys() != kinds.keys():
            raise ValueError(f"expected {', '.join(kinds)}")
        if not all(isinstance(content[name], kind) for name, kind in kinds.items()):
            raise ValueError("a value is of another kind")
        return cls(**content)


@dataclass(frozen=True)
class JobState:
    """Of a job: its state, where it is or was, why it is so, its scenes (done, of how many)."""

    name: StateName
    host: str = ""
    why: str = ""
    scenes: tuple[int, int] | None = None


def submitted(root: Path, every: bool) -> Iterator[str]:
    """Lines on a scene set's submissions, the newest first; none where there are none.

    ``root`` is ``<output>/<scene set>``; ``every`` shows all submissions and all elements.
    """
    folders = sorted((path.parent for path in (root / FOLDER).glob(f"*/{RECORD}")), reverse=True)
    shown = folders if every else folders[:_MOST_SUBMISSIONS]
    found: dict[Path, Submission] = {}
    for folder in shown:
        try:
            found[folder] = Submission.read(folder)
        except (OSError, ValueError) as error:
            yield f"damaged: {folder / RECORD}: {error}"
    jobs = [job for one in found.values() for job in (one.array_job, one.rest_job) if job]
    asked = states(jobs)
    if asked is None:
        yield "submitted jobs: no Slurm answers here; told from caches and the jobs' own notes"
    for folder, submission in found.items():
        yield from _lines(folder, submission, asked, None if every else _MOST_ROWS)
    if len(folders) > len(shown):
        yield f"... and {len(folders) - len(shown)} earlier submissions; --scenes shows all"


def _lines(
    folder: Path,
    one: Submission,
    asked: Mapping[str, tuple[str, str]] | None,
    most: int | None,
) -> Iterator[str]:
    under = f" --overrides {one.overrides}" if one.overrides else ""
    config = f" --config {one.config}" if one.config else ""
    yield f"submitted {folder.name}{config}{under}: array {one.array_job}, then {one.task}"
    states = element_states(folder, one, asked)
    rows = [(f"element {index}", state) for index, state in enumerate(states)]
    if most is not None and len(rows) > most:
        # The finished ones are told by their number alone.
        open_rows = [row for row in rows if row[1].name != "done"]
        yield f"{len(rows) - len(open_rows)} of {len(rows)} elements done; --scenes shows all"
        rows = open_rows[:most]
    rows.append((one.task, rest_state(folder, one, asked)))
    cells = [[name, *_cells(state)] for name, state in rows]
    yield from table([["job", "scenes", "state", "host", ""], *cells], left=4)
    if any(state.name == "failed" for _, state in rows):
        yield f"logs: {folder}"


def _cells(state: JobState) -> list[str]:
    scenes = "-" if state.scenes is None else "{}/{}".format(*state.scenes)
    return [scenes, state.name, state.host or "-", state.why]


def element_states(
    folder: Path, one: Submission, asked: Mapping[str, tuple[str, str]] | None
) -> list[JobState]:
    """Each element of a submission's array; ``asked`` is what Slurm knows, None without any."""
    states = []
    for index, keys in enumerate(_caches(one)):
        notes = _notes(folder / f"{ELEMENT}-{index}.notes")
        state = _state(asked, f"{one.array_job}_{index}", notes)
        if keys is not None:
            done = sum(keys)
            state = _with_caches(state, done, len(keys))
        elif state.name == "done":
            state = JobState("failed", state.host, "its caches are gone, or its config has changed")
        states.append(state)
    return states


def rest_state(
    folder: Path, one: Submission, asked: Mapping[str, tuple[str, str]] | None
) -> JobState:
    """The job that comes after the array."""
    if not one.rest_job:
        return JobState("failed", why="was not submitted")
    return _state(asked, one.rest_job, _notes(folder / f"{REST}.notes"))


def _caches(one: Submission) -> Sequence[Sequence[bool] | None]:
    """Of each shard, whether its scenes' caches are there; None while it is not known which."""
    unknown = [None] * one.num_shards
    try:
        plan: Plan = load_plan(one.scene_set, one.config, one.overrides)
        if not is_complete(plan.key("prepare_prompts")):
            return unknown
        return [
            [is_complete(plan.key("run_teacher", name)) for name in shard]
            for shard in shards_of(plan, one.num_shards)
        ]
    except UserError:  # The files that say what was meant are no longer there.
        return unknown


def _with_caches(state: JobState, done: int, total: int) -> JobState:
    if done == total:
        return JobState("done", state.host, scenes=(done, total))
    if state.name == "done":
        return JobState("failed", state.host, "ended well, but caches are missing", (done, total))
    return JobState(state.name, state.host, state.why, (done, total))


def _state(asked: Mapping[str, tuple[str, str]] | None, job: str, notes: list[str]) -> JobState:
    """What Slurm says of a job, or else its notes."""
    kind, _, value = notes[-1].partition(" ") if notes else ("", "", "")
    hosts = [note.partition(" ")[2] for note in notes if note.startswith("started ")]
    host = hosts[-1] if hosts else ""
    requeues = sum(note.startswith("requeued") for note in notes)
    again = f"requeued {requeues} x" if requeues else ""
    code = f"exit code {value}" if kind == "ended" and value != "0" else ""
    if asked is not None and job in asked:
        slurm_state, slurm_host = asked[job]
        name = state_name(slurm_state)
        why = _joined(slurm_state.lower(), code) if name == "failed" else again
        return JobState(name, slurm_host if name == "running" else host, why)
    if kind == "ended":
        return JobState("done" if value == "0" else "failed", host, _joined(again, code))
    if asked is not None:  # Slurm answers, has forgotten it, and it never told its end.
        return JobState("failed", host, "cancelled, or lost with its node")
    return JobState("running" if kind == "started" else "pending", host, again)


def _joined(*texts: str) -> str:
    return ", ".join(filter(None, texts))


def _notes(path: Path) -> list[str]:
    try:
        return path.read_text().split("\n")[:-1]
    except OSError:
        return []
