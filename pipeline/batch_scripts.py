"""The two batch scripts of a submission: one element of the array, and the rest.

A job that Slurm tells to stop before its time limit (USR1) or to make room (TERM), or whose
process is killed, goes back into the queue and later on from where it was. One that Slurm has
cancelled or timed out is no longer RUNNING, and stays what it is.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.errors import ConfigError

MOST_REQUEUES = 10
"""How often a job goes back into the queue by itself: one that gets nowhere must end some day."""
ELEMENT = "$SLURM_ARRAY_TASK_ID"
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
    return f'"{text}"' if text == ELEMENT else shlex.quote(text)


def _directive(key: str, value: str) -> str:
    if "\n" in value or "\r" in value:
        raise ConfigError(f"--{key}: expected one line, found {value!r}")
    return f"#SBATCH --{key}={shlex.quote(value)}" if value else f"#SBATCH --{key}"
