"""What training processes import late and read from Numba's cache; importing this does both."""

from __future__ import annotations

from models.sparse import cpu
from models.sparse.layers import load_spconv

load_spconv()
cpu.warm()
