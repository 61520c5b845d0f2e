"""YAML files to checked phases to tasks."""
