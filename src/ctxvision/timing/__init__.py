"""Time, memory and cost of networks side by side, in the same run."""
