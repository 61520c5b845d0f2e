"""The operating system: files, locks, processes, logs, group commit, garbage collection, git."""
