"""Which config files there are, and their text."""

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from distexp.errors import ConfigError
from distexp.system.files import regular

DEFAULT_CONFIGS = "configs/config_exp*.yaml"
MAX_BYTES = 1024 * 1024  # a sweep is a page of YAML; a megabyte is some other file, and takes up to a minute


def files_of(patterns: Sequence[Path], root: Path, problems: list[str]) -> list[str]:
    """Return the files that patterns name, each once; a pattern that names none is noted."""
    names = dict[str, None]()
    for pattern in patterns:
        found = find_configs(pattern, root)
        names |= dict.fromkeys(found)
        if not found:
            problems.append(f"{pattern.as_posix()}: there is no such config file; `init` makes one")
    return sorted(names, key=_natural_order)


def find_configs(pattern: Path, root: Path = Path()) -> list[str]:
    """Return the files that a pattern names, as it names them: below `root` unless absolute."""
    if os.path.isfile(root / pattern):  # a name with [brackets] may be meant as it stands
        return [pattern.as_posix()]
    found = glob.glob(str(pattern), root_dir=root)
    return sorted((Path(name).as_posix() for name in found), key=_natural_order)


def _natural_order(name: str) -> list[tuple[str, int]]:
    return [(text, int(digits or 0)) for text, digits in re.findall(r"([^0-9]*)([0-9]*)", name)]


def text_of_file(path: Path, name: str) -> str:
    """Return what a config file holds; `name` is how messages call it.

    Raises:
        ConfigError: It cannot be read, is no text, or too large.
    """
    try:
        with open(path, "rb", opener=regular) as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError([f"{name}: cannot be read ({error.strerror})"]) from error
    if len(content) > MAX_BYTES:
        raise ConfigError([f"{name}: is larger than {MAX_BYTES} bytes: no config file needs that"])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = f"0x{error.object[error.start]:02x}"
        raise ConfigError([f"{name}:{line}: the byte {byte} is not UTF-8: save the file as that"]) from error
