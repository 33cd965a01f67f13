"""Runs all steps of a plan in this process, in order."""

from __future__ import annotations

from pipeline.plan import Plan
from pipeline.steps import STEPS
from pipeline.tasks.steps import run_step


def run_whole(plan: Plan) -> None:
    """Make the report and all its inputs, on the CPU."""
    for step, key in plan.upstream(STEPS["report"], None):
        scenes = plan.scenes() if step.is_per_scene else (None,)
        scene = next(name for name in scenes if plan.key(step.name, name) == key)
        run_step(step, plan, scene, "cpu")
    run_step(STEPS["report"], plan, None, "cpu")
