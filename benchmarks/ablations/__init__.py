"""``python -m benchmarks ablations``: does context help, at equal parameters, on data that run anywhere?"""
