"""What a command of ``python -m pipeline`` is made of."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import NamedTuple


class Failure(Exception):
    """A command did its work and the outcome is bad, or the machine could not do it."""


class Command(NamedTuple):
    """A line for the list of commands, its options, and what it does with them.

    ``run`` raises UserError for what the user must mend (exit code 2), Failure for a bad
    outcome (1); it imports what is heavy itself, so that ``--help`` answers at once.
    """

    summary: str
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], None]
