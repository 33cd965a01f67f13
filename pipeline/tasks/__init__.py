"""Luigi's tasks: one for each declared step, and tasks that combine several runs.

In: parameters of the command line. Out: finished artifacts, and copies of the latest results.
"""
