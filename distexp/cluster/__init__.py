"""Slurm: workers as jobs."""
