"""`output_dir` templates -> folders below the working folder. Pure.

A folder must be one that Linux, macOS and Windows can all hold, since workers of one sweep may run on each.
"""

import re
from collections.abc import Mapping

from distexp.sweep.templates import fill, placeholders, render

_NOT_ON_WINDOWS = re.compile(r'[<>:"|?*\x00-\x1f\x7f]')
MAX_FOLDER_BYTES = 700  # macOS holds 1024 of a whole path: the rest is for the working folder and `runs/`
MAX_NAME_BYTES = 255  # the longest name of one folder on ext4, APFS and NTFS


def output_folder(template: str, values: Mapping[str, object]) -> str:
    """Return the folder as a relative path with `/` and no leading `./`; `.` is the working folder itself.

    Characters that Windows cannot hold become `_` where they come out of a value (`openml:mnist_784` gives
    `openml_mnist_784`), and are refused in the template's own text. Two values that become one folder so do
    no harm: their rows are told apart by their columns.

    Raises:
        ValueError: The template is broken, lacks a value, or leaves the working folder. One line with found
            and expected.
    """
    used = set(placeholders(template))
    path = fill(template, {n: _harmless(n, value) if n in used else "" for n, value in values.items()})
    if path.startswith(("/", "~")) or re.match("[A-Za-z]:", path):
        raise ValueError(f"found {template}, expected a path below the working folder, such as ./results_1")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    for part in parts:
        if part == "..":
            raise ValueError(
                f"found {template}, expected a path that does not leave the working folder by .."
            )
        if forbidden := re.search(r"\\", part) or _NOT_ON_WINDOWS.search(part):
            raise ValueError(
                f"found {forbidden[0]!r} in {template}, expected / and characters Windows can hold"
            )
        if len(part.encode()) > MAX_NAME_BYTES:
            raise ValueError(
                f"found a folder name of {len(part.encode())} bytes, expected at most {MAX_NAME_BYTES}"
            )
    folder = "/".join(parts) or "."
    if len(folder.encode()) > MAX_FOLDER_BYTES:
        raise ValueError(f"found a path of {len(folder.encode())} bytes, expected at most {MAX_FOLDER_BYTES}")
    return folder


def _harmless(name: str, value: object) -> str:
    text = render(value)
    if "/" in text or "\\" in text or ".." in text:
        raise ValueError(
            f"found {text[:60]!r} for {{{name}}} of output_dir, expected a value without / \\ and .."
        )
    return _NOT_ON_WINDOWS.sub("_", text)
