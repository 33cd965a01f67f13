"""Choosing few views that together see much of a scene."""

from __future__ import annotations

import numpy as np

from data.types import Array


def cover_greedily(visible: Array, max_views: int) -> list[int]:
    """Indices, ascending, of at most ``max_views`` rows of ``visible`` (V, N) bool.

    Each next view is the one that sees most points not yet seen, the first of equals. When
    no view adds any, all points count as unseen again, so that further views see a second
    time what can be seen. A view that sees nothing is chosen last.
    """
    num_views = len(visible)
    if num_views <= max_views:
        return list(range(num_views))
    total = np.count_nonzero(visible, axis=1)
    gains = total.copy()
    unseen = np.ones(visible.shape[1], bool)
    free = np.ones(num_views, bool)
    for _ in range(max_views):
        if gains[free].max() == 0:
            unseen[:] = True
            gains = total.copy()
        best = int(np.argmax(np.where(free, gains, -1)))
        free[best] = False
        newly = np.flatnonzero(unseen & visible[best])
        unseen[newly] = False
        gains -= np.count_nonzero(visible[:, newly], axis=1)
    return [int(index) for index in np.flatnonzero(~free)]
