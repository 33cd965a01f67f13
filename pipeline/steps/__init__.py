"""Declarations of all steps: what goes in, what comes out, and what the pipeline must know of each.

In: nothing but names of sections, readers and stages. Out: ``STEPS``, in the order in which a run
makes them, from which plan, tasks, commands and report follow.
"""

# In the order of a run: a step is declared after those that it reads from.
from pipeline.steps import scans, teaching, learning, answers, report  # isort: skip
from pipeline.steps.declaration import STEPS, Input, Origin, Part, Preload, Source, Step, declare

__all__ = (
    "STEPS",
    "Input",
    "Origin",
    "Part",
    "Preload",
    "Source",
    "Step",
    "answers",
    "declare",
    "learning",
    "report",
    "scans",
    "teaching",
)
