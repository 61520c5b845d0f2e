"""Search: which task is worth going on with."""
