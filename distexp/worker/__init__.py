"""The worker: one turn after the other, its task processes, delivery of results, signals."""
