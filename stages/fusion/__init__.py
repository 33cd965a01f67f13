"""From masks of many views to one soft label of every point.

In: a teacher's masks and links. Out: pseudo-labels with confidences.
"""
