"""Fixed random vectors for words, and generators seeded by what they are for."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

CODE_DIM = 64


def seeded(*parts: object) -> np.random.Generator:
    """A generator that depends on the parts alone, the same on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    words = np.frombuffer(hashlib.sha256(text.encode()).digest(), "<u4")
    return np.random.default_rng(np.random.SeedSequence([int(word) for word in words]))


@lru_cache(maxsize=4096)
def code(text: str) -> NDArray[np.float64]:
    """(64,) the unit vector that stands for a word or label."""
    vector = seeded("code", text).standard_normal(CODE_DIM)
    vector /= np.linalg.norm(vector)
    vector.flags.writeable = False
    return vector


def words_code(text: str) -> NDArray[np.float64]:
    """(64,) mean code of a query's words, lower case; zeros for a query without words."""
    words = re.findall(r"\w+", text.lower())
    return np.asarray(np.mean([code(word) for word in words] or [np.zeros(CODE_DIM)], axis=0))
