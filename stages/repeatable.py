"""Settings of torch under which a stage gives the same bits again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def repeatable() -> Iterator[None]:
    """Deterministic algorithms and one thread meanwhile; the settings found come back after.

    One thread of torch's: sums split among more come out different, so that bits would depend on
    the machine. The sparse convolutions, which take most of the time, use threads of their own,
    which change no bit (``models.sparse_cpu``).
    """
    options: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill, threads = options.fill_uninitialized_memory, torch.get_num_threads()
    torch.use_deterministic_algorithms(True, warn_only=True)
    options.fill_uninitialized_memory = False  # A debugging aid that costs time.
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        options.fill_uninitialized_memory = fill
        torch.set_num_threads(threads)
