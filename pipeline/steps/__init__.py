"""Declarations of all steps of the pipeline.

In: names of config sections, artifact readers and stages. Out: ``STEPS``, in the order of a run,
from which plan, tasks, commands and report are derived.
"""

# In the order of a run: a step is declared after the steps whose artifacts it reads.
from pipeline.steps import scans, questions, teaching, learning, answers, report  # isort: skip
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
    "questions",
    "report",
    "scans",
    "teaching",
)
