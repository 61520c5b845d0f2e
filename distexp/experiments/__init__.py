"""Experiments: the code that computes. The only package that imports torch; loaded by name in the child."""
