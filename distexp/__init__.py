"""Distributed experiment system: a manager assigns tasks of a sweep to workers, rows of CSV are the truth."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distexp.context import Context
    from distexp.experiments.checkpoint import load_checkpoint, save_checkpoint
    from distexp.manager.manager import ExperimentManager
    from distexp.reporting.frame import load_metrics, load_results

__version__ = "0.2.0.dev0"
__all__ = [
    "Context",
    "ExperimentManager",
    "__version__",
    "load_checkpoint",
    "load_metrics",
    "load_results",
    "save_checkpoint",
]

_PLACES = {  # imported when first used, so that the manager does without torch
    "Context": "distexp.context",
    "ExperimentManager": "distexp.manager.manager",
    "load_checkpoint": "distexp.experiments.checkpoint",
    "load_metrics": "distexp.reporting.frame",
    "load_results": "distexp.reporting.frame",
    "save_checkpoint": "distexp.experiments.checkpoint",
}


def __getattr__(name: str) -> Any:
    """Return a public name from where it is."""
    if name not in _PLACES:
        raise AttributeError(f"module 'distexp' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
