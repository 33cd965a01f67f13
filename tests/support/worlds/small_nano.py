"""The pipeline with a small LISA-nano, for ``luigi --module``: its steps take 0.1 s, not 5 s.

One process trains: a second would import all packages first.
"""

from __future__ import annotations

import pipeline  # noqa: F401 - Luigi finds its tasks.
from models.lisa import trainee
from stages.nano import train
from tests.support.worlds.nano_world import small_config, small_work

trainee.nano_config = small_config
train._work = small_work
train.PROCESSES = 1
