"""``python -m benchmarks matrix``: every way to run a network, ours against the plain peer run in the same way."""
