"""The command line: the table of verbs in `main`, one module per group of verbs."""
