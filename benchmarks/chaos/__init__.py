"""Chaos runs: real sweeps under a seeded plan of faults, and what must hold afterwards."""
