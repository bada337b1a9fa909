"""``python -m benchmarks models``."""
