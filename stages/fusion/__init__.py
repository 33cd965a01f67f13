"""Fuse the masks of many views into one soft label per point and query.

In: a teacher's masks and links. Out: pseudo-labels with confidences.
"""
