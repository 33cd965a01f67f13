"""The commands of ``mllm3d``, a module for each subject.

In: options of a command line. Out: what a person reads, and files they asked for.
"""
