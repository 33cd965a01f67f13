"""Geometry of scans: cameras, meshes, rays, visibility, superpoints and voxels.

In: arrays of points, triangles and poses (metres). Out: arrays of pixels, depths and ids.
"""
