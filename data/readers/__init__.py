"""Dataset readers: ScanNet++, ScanNet, Matterport3D and a person's own scans.

In: a dataset's folder and a scene's name. Out: a ``Scan`` and its sources' identity.
"""
