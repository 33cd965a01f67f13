"""The processes of a run on one machine.

In: a task that is about to run. Out: its GPU, threads, log file and progress.
"""
