"""Distributed experiment system: a manager assigns tasks of a sweep to workers, rows of CSV are the truth."""
