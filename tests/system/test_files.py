"""Files that last."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from distexp.system import files


@pytest.mark.parametrize("is_refused", [False, True])
def test_the_full_sync_of_macos_is_asked_for_and_a_file_system_without_it_gets_fsync(
    is_refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = os.fsync

    def full_sync(descriptor: int, what: int) -> None:
        asked.append(f"fcntl {what}")
        if is_refused:
            raise OSError

    def fsync(descriptor: int) -> None:
        asked.append("fsync")
        real(descriptor)

    monkeypatch.setattr(files, "FULL_SYNC", 51)
    monkeypatch.setattr(files, "fcntl", SimpleNamespace(fcntl=full_sync))
    monkeypatch.setattr(os, "fsync", fsync)
    with open(tmp_path / "file", "wb") as file:
        files.sync(file.fileno())
    assert asked == ["fcntl 51", "fsync"] if is_refused else ["fcntl 51"]
