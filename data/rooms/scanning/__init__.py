"""Scan a generated room as a person with a hand-held sensor does.

In: a room and the poses of its pictures. Out: one fused mesh with truth for each vertex, drifted
poses, degraded pictures, and how much of the true surface the scan holds.
"""
