"""Luigi's worker and scheduler client, the display of a run, and Slurm jobs.

In: tasks. Out: tasks run in forked processes, with progress, clean stops and several hosts.
"""
