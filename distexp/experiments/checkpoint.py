"""The checkpoint of one training: written whole or not at all, read with suspicion."""

import io
import os
import pickle
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch

NAME = "checkpoint.pt"
_DAMAGED = (
    OSError, RuntimeError, ValueError, LookupError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError,
)  # fmt: skip


def save(folder: Path, identity: str, state: dict[str, Any]) -> bool:
    """Replace the checkpoint in `folder`, and return whether that was possible; a warning says why not.

    Args:
        identity: What must be equal for the state to be of use to another process.
        state: Tensors, and plain Python values that `torch.load(weights_only=True)` accepts.
    """
    buffer = io.BytesIO()
    torch.save({"identity": identity, "state": state}, buffer)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=NAME, suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(buffer.getvalue())
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, folder / NAME)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as cause:
        print(
            f"warning: {folder / NAME}: cannot write the checkpoint ({cause}); training goes on", flush=True
        )
        return False
    return True


def load(folder: Path, identity: str) -> dict[str, Any] | None:
    """Return the saved state, on the CPU, or None: there is none, or a warning says why it is ignored."""
    path = folder / NAME
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch does not compare checksums
        if damaged is not None:
            raise ValueError(f"wrong checksum of {damaged}")
        saved = torch.load(path, map_location="cpu", weights_only=True)
        found, state = saved["identity"], saved["state"]
    except _DAMAGED as cause:
        reason = str(cause).partition("\n")[0]
        print(f"warning: {path}: found a damaged checkpoint ({reason}); training starts again", flush=True)
        return None
    if found != identity:
        print(f"warning: {path}: found the checkpoint of another training; this one starts anew", flush=True)
        return None
    return dict(state)
