"""Measures, as ratios: ours beside the bare loop, in one run. `python -m benchmarks` runs them all."""
