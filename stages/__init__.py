"""Stages: one pure entry each that takes values and a config and returns values.

In: artifacts as values, and a frozen config of ``stages.configs``. Out: the next artifact.
A stage never imports another stage; the pipeline joins them.
"""
