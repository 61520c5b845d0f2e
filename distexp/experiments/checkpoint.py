"""The checkpoint of a task: written whole or not at all, read with suspicion.

For experiments of your own too; docs/checkpoints.md has the whole contract. What is printed here stands in
the task's log. Torch is imported by the first call.
"""

import io
import pickle
import uuid
import zipfile
from pathlib import Path
from typing import Any

from distexp.context import CHECKPOINT_FILE
from distexp.system.files import replace_durably

_DAMAGED = (
    OSError, RuntimeError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile,
    pickle.UnpicklingError,
)  # fmt: skip


def save_checkpoint(folder: Path, state: dict[str, Any], identity: str = "") -> bool:
    """Replace the checkpoint in `folder`, and return whether that was possible; a warning says why not.

    A kill at any moment leaves the one before or this one.

    Args:
        folder: `context.checkpoint_dir`, or a folder in it; made where it is missing.
        state: Tensors, numbers, texts, None, and lists, tuples and dicts of such.
        identity: What must be equal for the state to be of use: parameters and versions, say.

    Raises:
        TypeError: The state holds something else, which could not be read again. One line names it.
    """
    import torch

    buffer = io.BytesIO()
    torch.save({"identity": identity, "state": state}, buffer)
    buffer.seek(0)
    if unsafe := torch.serialization.get_unsafe_globals_in_checkpoint(buffer):
        raise TypeError(
            f"checkpoint: {', '.join(sorted(unsafe))} in the state cannot be read again; "
            "save tensors, numbers and texts"
        )
    path = folder / CHECKPOINT_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f".{CHECKPOINT_FILE}.*.tmp"):  # of a save that was killed
            left.unlink(missing_ok=True)
        replace_durably(
            path, buffer.getbuffer(), writer=uuid.uuid4().hex
        )  # two, of which one has lost its lease
    except OSError as cause:
        print(f"warning: {path}: cannot write the checkpoint ({cause}); the task goes on", flush=True)
        return False
    return True


def load_checkpoint(folder: Path, identity: str = "") -> dict[str, Any] | None:
    """Return the saved state, on the CPU, or None: there is none, or a warning says why it does not count."""
    path = folder / CHECKPOINT_FILE
    if not path.exists():
        return None
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch does not compare checksums
        if damaged is not None:
            raise ValueError(f"wrong checksum of {damaged}")
        saved = torch.load(path, map_location="cpu", weights_only=True)
        found, state = saved["identity"], dict(saved["state"])
    except _DAMAGED as cause:
        reason = str(cause).partition("\n")[0]
        print(f"warning: {path}: not readable as a checkpoint ({reason}); {_ANEW}", flush=True)
        return None
    if found != identity:
        print(f"warning: {path}: the checkpoint of another training; {_ANEW}", flush=True)
        return None
    return state


_ANEW = "the task starts from the beginning"
