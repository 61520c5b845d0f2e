"""The tasks of a sweep: states, scheduling, leases, and the journal that outlives the manager."""
