"""The launch scripts: `.venv`, and a manager with workers on this machine."""
