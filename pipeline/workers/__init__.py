"""Luigi's worker and scheduler as this project needs them, and Slurm's jobs.

In: tasks. Out: the same tasks run warm, shown, stopped cleanly, shared between hosts.
"""
