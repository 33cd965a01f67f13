"""Read datasets: ScanNet++, ScanNet, Matterport3D and a user's RGB-D scans.

In: a dataset's folder and a scene's name. Out: a ``Scan``, and a hash of its source files.
"""
