"""Speed and memory against the formulas users run today: ``python -m benchmarks``."""
