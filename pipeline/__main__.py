"""Commands beside Luigi's tasks: ``mllm3d COMMAND``, or ``python -m pipeline COMMAND``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from data.errors import UserError
from pipeline import (
    compare_command,
    diff_command,
    doctor_command,
    explain_command,
    export_command,
    gc_command,
    gif_command,
    iphone_command,
    plan_command,
    query_command,
    sens_command,
    show_command,
    status_command,
    submit_command,
    teacher_commands,
    verify_command,
    view_command,
)
from pipeline.command import Command, Failure

COMMANDS: dict[str, Command] = {
    "teacher": teacher_commands.TEACHER,
    "check-teacher": teacher_commands.CHECK_TEACHER,
    "plan": plan_command.PLAN,
    "status": status_command.STATUS,
    "gif": gif_command.GIF,
    "show": show_command.SHOW,
    "submit": submit_command.SUBMIT,
    "explain": explain_command.EXPLAIN,
    "diff": diff_command.DIFF,
    "compare": compare_command.COMPARE,
    "doctor": doctor_command.DOCTOR,
    "export": export_command.EXPORT,
    "extract-iphone": iphone_command.EXTRACT_IPHONE,
    "extract-sens": sens_command.EXTRACT_SENS,
    "query": query_command.QUERY,
    "view": view_command.VIEW,
    "gc": gc_command.GC,
    "verify": verify_command.VERIFY,
}


class _Parser(argparse.ArgumentParser):
    """Refuses in one line, without the usage, and takes no shortened options."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists the options)\n")


def main(arguments: Sequence[str] | None = None, name: str = "python -m pipeline") -> int:
    """Run one command under ``name``; returns 0, 1 for a failed run, 2 for a user's mistake."""
    told = "What is asked for directly; stages are run by luigi --module pipeline TASK."
    parser = _Parser(prog=name, description=told, allow_abbrev=False)
    subparsers = parser.add_subparsers(metavar="COMMAND", parser_class=_Parser)
    for word, command in COMMANDS.items():
        added = subparsers.add_parser(
            word, help=command.summary, description=command.summary, allow_abbrev=False
        )
        command.add_arguments(added)
        added.set_defaults(command=command, name=word)
    options = parser.parse_args(arguments)
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
