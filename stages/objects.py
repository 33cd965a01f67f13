"""Parts of one object answer alike: superpoints that touch and that the student holds for one.

A student is often surer of a seat than of the legs under it. Both have nearly the same features,
by which the student could tell other objects apart, so that nothing but features is needed to see
that they belong together: no labels, no list of categories.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from data.types import Array


def find_objects(features: Array, pairs: Array, cosine: float) -> Array:
    """(S,) which object each superpoint is part of, numbers from 0.

    Args:
        features: (S, D) mask features, of any length.
        pairs: (P, 2) superpoints that touch, see ``data.neighbours``.
        cosine: those whose features are more alike than this are parts of one object, and so
            are parts of parts.
    """
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.where(lengths > 0, lengths, 1)
    first, second = pairs[np.einsum("pd,pd->p", unit[pairs[:, 0]], unit[pairs[:, 1]]) > cosine].T
    links = coo_matrix((np.ones(len(first)), (first, second)), shape=(len(unit), len(unit)))
    return np.asarray(connected_components(links, directed=False)[1])


def agree(probs: Array, objects: Array, sizes: Array, share: float) -> Array:
    """(Q, S) float32: probabilities of superpoints drawn towards the mean of their object.

    Args:
        probs: (Q, S).
        objects: (S,), see ``find_objects``.
        sizes: (S,) numbers of points; superpoints count by their roots, as in training.
        share: of the object's mean in the result; 1 gives all its parts the same.
    """
    weights = np.sqrt(sizes)
    member = coo_matrix((weights, (np.arange(len(objects)), objects))).tocsr()
    total = np.asarray(member.sum(axis=0)).ravel()
    means = (probs @ member) / np.where(total > 0, total, 1)
    return np.asarray((1 - share) * probs + share * means[:, objects], np.float32)
