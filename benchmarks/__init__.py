"""Speed and memory compared with common implementations: ``python -m benchmarks``."""
