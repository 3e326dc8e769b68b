"""Benchmarks: rivals beside us, correctness before timing, ratios within one run."""
