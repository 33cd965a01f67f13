"""Definition of a command of mllm3d, and options that several commands share."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from typing import NamedTuple


class Command(NamedTuple):
    """A command: its line in the list of commands, its options, and its function.

    ``run`` raises UserError for a user's mistake (exit code 2) and Failure for a failed run (1). It
    imports heavy modules itself, so that ``--help`` is fast.
    """

    summary: str
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], None]


def count(text: str) -> int:
    """Parse an option's value as a whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"expected a whole number of 1 or more, found {text!r}")
    return int(text)


def add_run_arguments(parser: ArgumentParser) -> None:
    """Add the options that name a run, the same as those of Luigi's tasks."""
    add = parser.add_argument
    add(
        "--scene-set",
        required=True,
        help="name of a file in configs/scene_sets, or path of a YAML file",
    )
    add(
        "--config", default="", help="name of a file in configs/experiments, or path of a YAML file"
    )
    add("--overrides", default="", help="config keys as in the run: key=value,key=value")
