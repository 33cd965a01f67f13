"""Files in, typed values out: scans, cameras, prompts and cached artifacts.

In: files of datasets, of users and of earlier stages. Out: the types of ``data.types``.
Every error of a file names the file, what was found, what was expected and the remedy.
"""
