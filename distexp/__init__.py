"""Distributed experiment system: a manager assigns tasks of a sweep to workers, rows of CSV are the truth."""

__version__ = "0.1.0"
