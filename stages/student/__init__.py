"""The 3D student: train it on pseudo-labels, then query it by [SEG] tokens or by text.

In: prepared scenes with soft labels. Out: a network and its masks on points.
"""
