"""``python -m benchmarks gpu``."""
