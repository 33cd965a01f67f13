"""Scores of answers against ground truth.

In: predicted masks or words, and truths. Out: metrics with confidence intervals.
"""
