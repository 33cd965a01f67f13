"""Queries and class names, prepared for the stages after them.

In: records of query files or names of classes. Out: prompts, truths and embeddings.
"""
