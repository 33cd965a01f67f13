"""Read and write files: scans, cameras, queries and cached artifacts.

In: files of datasets, users and earlier stages. Out: the types of ``data.types``.
Every error about a file names the file, what was expected, what was found and the remedy.
"""
