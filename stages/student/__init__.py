"""The 3D student: trained on pseudo-labels, then asked by tokens or by text.

In: prepared scenes with soft labels. Out: a network and its masks on points.
"""
