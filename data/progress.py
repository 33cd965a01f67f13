"""How long work tells of its progress: a callback given by whoever shows it."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""``progress(done, total)``, called after every step."""


def silent(done: int, total: int) -> None:
    """Show nothing."""
