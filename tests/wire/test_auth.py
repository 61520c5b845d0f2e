import stat
import sys
from pathlib import Path

import pytest

from distexp.errors import UserError
from distexp.wire.auth import Token, given_token, load_or_make_identity, parse_token, read_token
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
    workdir.make_state()
    write_private(workdir.token, "")
    workdir.token.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_token(workdir)
    assert str(error.value) == (
        f'{workdir.token}: holds no token such as {{"secret": ..., "fingerprint": ...}}; '
        "delete it, and the next start of the manager makes a new one"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no such modes")
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_token_file_that_others_can_read_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    workdir = Workdir(tmp_path)
    workdir.make_state()
    write_private(workdir.token, TEXT)
    workdir.token.chmod(mode)
    with pytest.raises(UserError) as error:
        read_token(workdir)
    assert str(error.value) == (
        f"{workdir.token}: other users can read this secret (mode {mode:04o}); run "
        f"`chmod 600 {workdir.token}`, or delete it if somebody may have read it"
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
        'EXPERIMENT_TOKEN: holds no token such as {"secret": ..., "fingerprint": ...}; '
        "give it the text of .experiment_manager/token"
    )


@pytest.fixture
def workdir(tmp_path: Path) -> Workdir:
    workdir = Workdir(tmp_path)
    workdir.state.mkdir()
    return workdir


def test_secret_and_certificate_are_made_once_and_only_their_owner_can_read_them(workdir: Workdir) -> None:
    token, _ = load_or_make_identity(workdir)
    assert len(token.secret) == 64
    assert load_or_make_identity(workdir)[0] == read_token(workdir) == token
    if sys.platform != "win32":
        for path in (workdir.token, workdir.certificate):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    left = {path.name for path in workdir.root.rglob("*")}
    assert left == {".experiment_manager", "certificate.pem", "token"}, "nothing half written"


def test_two_folders_have_nothing_in_common(workdir: Workdir) -> None:
    other = Workdir(workdir.root / "other")
    other.state.mkdir(parents=True)
    token, their = load_or_make_identity(workdir)[0], load_or_make_identity(other)[0]
    assert token.secret != their.secret
    assert token.fingerprint != their.fingerprint


def test_a_lost_certificate_is_made_again_and_workers_on_other_machines_need_a_new_copy(
    workdir: Workdir, caplog: pytest.LogCaptureFixture
) -> None:
    before, _ = load_or_make_identity(workdir)
    workdir.certificate.unlink()
    after, _ = load_or_make_identity(workdir)
    assert after.secret == before.secret
    assert after.fingerprint != before.fingerprint
    assert caplog.messages == [
        f"New certificate: workers on other machines need a new copy of {workdir.token}"
    ]


def test_a_deleted_token_file_means_a_new_secret(workdir: Workdir) -> None:
    before, _ = load_or_make_identity(workdir)
    workdir.token.unlink()
    after, _ = load_or_make_identity(workdir)
    assert after.secret != before.secret
    assert after.fingerprint == before.fingerprint


@pytest.mark.parametrize("content", [b"", b"\xff", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_damaged_certificate_is_one_clear_line(workdir: Workdir, content: bytes) -> None:
    load_or_make_identity(workdir)
    workdir.certificate.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_or_make_identity(workdir)
    assert str(error.value) == (
        f"{workdir.certificate}: holds no usable key and certificate; "
        "delete it, and the next start of the manager makes new ones"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no such modes")
def test_a_key_that_others_can_read_is_refused(workdir: Workdir) -> None:
    load_or_make_identity(workdir)
    workdir.certificate.chmod(0o640)
    with pytest.raises(UserError, match=r"other users can read this secret .mode 0640"):
        load_or_make_identity(workdir)
