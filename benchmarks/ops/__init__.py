"""``python -m benchmarks ops``."""
