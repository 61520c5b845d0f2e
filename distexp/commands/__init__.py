"""The verbs of `experiment_manager.py`, one room each: `main(words)` returns the exit code."""
