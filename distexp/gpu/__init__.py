"""NVIDIA GPUs through NVML: which are there, and exclusive claims on them."""
