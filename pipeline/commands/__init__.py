"""The commands of ``mllm3d``, one module for each subject.

In: options of a command line. Out: text on the terminal, and the files that the user asked for.
"""
