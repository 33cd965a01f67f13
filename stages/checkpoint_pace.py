"""How often a training writes a checkpoint: after every epoch, but where those are short."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SHARE = 0.02
"""Of a training's time, for checkpoints; a kill costs the epochs since the last, seconds."""


class CheckpointPace:
    """Knows when the next checkpoint is due: the last one's cost has become a small share."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` tells seconds."""
        self._clock = clock
        self._due_at = clock()

    def due(self) -> bool:
        """Whether to write one now; always before the first."""
        return self._clock() >= self._due_at

    @contextmanager
    def written(self) -> Iterator[None]:
        """Meanwhile one is written."""
        began = self._clock()
        yield
        ended = self._clock()
        self._due_at = ended + (ended - began) / _SHARE
