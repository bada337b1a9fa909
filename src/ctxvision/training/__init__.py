"""Training runs: from options to a run folder with checkpoints, metrics and provenance."""
