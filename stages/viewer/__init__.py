"""The live viewer: a page on this machine that shows a run in 3D and takes new queries.

In: a run's scenes and a student. Out: a local viser server.
"""
