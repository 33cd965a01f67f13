"""Query files of every format, hierarchical search and class lists.

In: the query files of benchmarks and users. Out: ``PromptRecord`` values and searches.
"""
