"""Rows and `final_results.csv`: format, matching with tasks, appending, spool."""
