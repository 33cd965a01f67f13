"""Read query files of every format, class lists, and sentences of hierarchical search.

In: the query files of benchmarks and users. Out: ``PromptRecord`` values and searches.
"""
