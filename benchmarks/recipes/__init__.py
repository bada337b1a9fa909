"""``python -m benchmarks recipes``: does every family learn by every recipe of its own, in a few hundred steps?"""
