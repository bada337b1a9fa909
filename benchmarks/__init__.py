"""Times of the operators and networks against peers in the same run; see docs/benchmarks.md."""
