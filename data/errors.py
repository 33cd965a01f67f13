"""Define the errors that a user can mend; commands show them as one message, not a traceback."""

from __future__ import annotations

from pathlib import Path


class UserError(Exception):
    """An input or request of the user is wrong; the message tells what is wrong and the remedy."""


class ConfigError(UserError):
    """A configuration key, value or command-line parameter is refused."""


class DataError(UserError):
    """A file of the user's data is missing, damaged or inconsistent.

    Arguments are positional so that the error survives pickling between processes.
    """

    def __init__(self, path: Path | str, expected: str, found: str, remedy: str) -> None:
        super().__init__(str(path), expected, found, remedy)
        self.path = str(path)

    def __str__(self) -> str:
        path, expected, found, remedy = self.args
        return f"{path}: expected {expected}, found {found}. {remedy}"


class ArtifactError(DataError):
    """A cached artifact is missing, incomplete or damaged."""


class Failure(Exception):
    """A command ran and its outcome is bad, or the machine could not do the work."""
