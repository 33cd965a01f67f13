"""The processes of a run on one machine.

In: tasks that are about to run. Out: devices, threads, logs, progress, and libraries in memory.
"""
