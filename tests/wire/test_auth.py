import sys
from pathlib import Path

import pytest

from distexp.errors import UserError
from distexp.wire.auth import Token, given_token, parse_token, read_token
from distexp.workdir import Workdir, write_private

FINGERPRINT = "0123456789abcdef" * 4
TEXT = f'{{"secret":"geheim","fingerprint":"{FINGERPRINT}"}}\n'


def test_a_token_is_read_as_it_was_written_and_its_secret_is_never_shown() -> None:
    token = parse_token(TEXT.encode(), "here", "")
    assert token == Token("geheim", FINGERPRINT, "here")
    assert token.text() == TEXT
    assert "geheim" not in repr(token)


def test_a_folder_without_a_token_has_none(tmp_path: Path) -> None:
    assert read_token(Workdir(tmp_path)) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"secret": "geheim"}',
        TEXT.replace("geheim", "").encode(),
        TEXT.replace('"geheim"', "5").encode(),
        TEXT.replace("abcdef", "ABCDEF").encode(),
        TEXT.replace("abcdef", "").encode(),
    ],
)
def test_a_damaged_token_file_is_one_clear_line_without_its_text(tmp_path: Path, content: bytes) -> None:
    workdir = Workdir(tmp_path)
    write_private(workdir.token, "")
    workdir.token.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_token(workdir)
    assert str(error.value) == (
        f'{workdir.token}: found no token, expected {{"secret": ..., "fingerprint": ...}}; '
        "delete it, and the next start of the manager makes a new one"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no such modes")
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_token_file_that_others_can_read_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    workdir = Workdir(tmp_path)
    write_private(workdir.token, TEXT)
    workdir.token.chmod(mode)
    with pytest.raises(UserError) as error:
        read_token(workdir)
    assert str(error.value) == (
        f"{workdir.token}: found mode {mode:04o}, so that other users can read the secret, expected 0600: "
        "`chmod 600 .experiment_token`, or delete it if somebody may have read it"
    )
    workdir.token.chmod(0o600)
    assert read_token(workdir) == Token("geheim", FINGERPRINT, str(workdir.token))


def test_the_environment_holds_a_token_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXPERIMENT_TOKEN", raising=False)
    assert given_token() is None
    monkeypatch.setenv("EXPERIMENT_TOKEN", "")
    assert given_token() is None
    monkeypatch.setenv("EXPERIMENT_TOKEN", TEXT)
    assert given_token() == Token("geheim", FINGERPRINT, "EXPERIMENT_TOKEN")
    monkeypatch.setenv("EXPERIMENT_TOKEN", "geheim")
    with pytest.raises(UserError) as error:
        given_token()
    assert str(error.value) == (
        'EXPERIMENT_TOKEN: found no token, expected {"secret": ..., "fingerprint": ...}; '
        "give it the text of .experiment_token"
    )
