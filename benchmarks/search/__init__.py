"""Epochs until a search has found a good configuration: ours beside Optuna and Ray Tune."""
