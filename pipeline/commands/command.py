"""What a command of mllm3d is made of."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from typing import NamedTuple


class Command(NamedTuple):
    """A line for the list of commands, its options, and what it does with them.

    ``run`` raises UserError for what the user must mend (exit code 2), Failure for a bad
    outcome (1); it imports what is heavy itself, so that ``--help`` answers at once.
    """

    summary: str
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], None]


def count(text: str) -> int:
    """An option's value as a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"expected a whole number from 1 on, found {text!r}")
    return int(text)


def add_run_arguments(parser: ArgumentParser) -> None:
    """The options that say which run is meant, as Luigi's tasks take them."""
    add = parser.add_argument
    add("--scene-set", required=True, help="a file in configs/scene_sets, or the path of one")
    add("--config", default="", help="a file in configs/experiments, or the path of one")
    add("--overrides", default="", help="key=value,key=value, as they are run")
