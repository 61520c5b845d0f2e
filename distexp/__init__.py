"""Distributed experiment system: a manager lends tasks of a sweep to workers, rows of CSV are the truth."""
