"""Luigi's tasks: one for each declared step, and those of several runs together.

In: parameters of the command line. Out: finished artifacts, and results put in place.
"""
