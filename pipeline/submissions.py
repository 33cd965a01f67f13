"""What was submitted to Slurm, and how far it is; known without Slurm's accounting.

Each submission is a folder ``<output>/<scene set>/slurm/<time>/`` with the scripts, ``RECORD``,
and of each job a log and notes, which its script writes: "started HOST", "requeued after CODE",
"ended CODE".

An element of the array is done when the caches of its scenes are there. Else it is what Slurm
says of it, while Slurm remembers it, and then what its notes say.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from data.artifacts.store import is_complete, write_text_atomic
from data.errors import UserError
from pipeline import scene_data, slurm
from pipeline.plan import Plan, load_plan
from pipeline.shards import balanced
from pipeline.slurm import StateName
from pipeline.tables import table

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
    asked = slurm.states(jobs)
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
        if not is_complete(plan.prompts()):
            return unknown
        shards = balanced(scene_data.num_asked(plan), one.num_shards)
        return [[is_complete(plan.teacher(name)) for name in shard] for shard in shards]
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
        name = slurm.state_name(slurm_state)
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
