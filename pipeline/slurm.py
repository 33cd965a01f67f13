"""Slurm's commands, asked through their own programs: sbatch, squeue and scancel."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from data.errors import UserError
from pipeline.command import Failure

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
