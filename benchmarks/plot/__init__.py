"""``python -m benchmarks plot``."""
