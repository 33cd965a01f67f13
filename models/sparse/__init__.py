"""Sparse convolutions over voxels on CPU and CUDA, and a U-Net made of them.

In: voxel coordinates and features. Out: features of the same voxels.
"""
