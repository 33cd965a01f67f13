"""The commands ``mllm3d COMMAND`` (or ``python -m pipeline COMMAND``), beside Luigi's tasks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from data.errors import Failure, UserError
from pipeline.commands import (
    compare,
    doctor,
    explain,
    export,
    extract,
    gc,
    plan,
    query,
    show,
    status,
    submit,
    teacher,
    view,
)
from pipeline.commands.command import Command

COMMANDS: dict[str, Command] = {
    "teacher": teacher.TEACHER,
    "check-teacher": teacher.CHECK_TEACHER,
    "plan": plan.PLAN,
    "status": status.STATUS,
    "gif": show.GIF,
    "show": show.SHOW,
    "submit": submit.SUBMIT,
    "explain": explain.EXPLAIN,
    "diff": explain.DIFF,
    "compare": compare.COMPARE,
    "doctor": doctor.DOCTOR,
    "export": export.EXPORT,
    "extract-iphone": extract.EXTRACT_IPHONE,
    "extract-sens": extract.EXTRACT_SENS,
    "query": query.QUERY,
    "view": view.VIEW,
    "gc": gc.GC,
    "verify": gc.VERIFY,
}


class _Parser(argparse.ArgumentParser):
    """Parser that reports errors in one line without the usage and takes no shortened options."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists the options)\n")


def main(arguments: Sequence[str] | None = None, name: str = "python -m pipeline") -> int:
    """Run one command; returns 0 for success, 1 for a failed run, 2 for a user's mistake."""
    description = (
        "Commands on scene sets and runs. The pipeline itself runs by luigi --module pipeline TASK."
    )
    parser = _Parser(prog=name, description=description, allow_abbrev=False)
    subparsers = parser.add_subparsers(metavar="COMMAND", parser_class=_Parser)
    given = list(sys.argv[1:] if arguments is None else arguments)
    # The options of the other commands, which take longer than a small command, are not needed.
    named = COMMANDS.keys() & given[:1] or COMMANDS.keys()
    for command_name, command in COMMANDS.items():
        if command_name not in named:
            continue
        subparser = subparsers.add_parser(
            command_name, help=command.summary, description=command.summary, allow_abbrev=False
        )
        command.add_arguments(subparser)
        subparser.set_defaults(command=command, name=command_name)
    options = parser.parse_args(given)
    if not hasattr(options, "command"):
        parser.print_help()
        return 0
    try:
        options.command.run(options)
    except (UserError, Failure, OSError, MemoryError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"{parser.prog} {options.name}: {text}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
