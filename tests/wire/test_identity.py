import stat
import sys
from pathlib import Path

import pytest

from distexp.errors import UserError
from distexp.wire.auth import read_token
from distexp.wire.identity import keep_identity
from distexp.workdir import Workdir


@pytest.fixture
def workdir(tmp_path: Path) -> Workdir:
    workdir = Workdir(tmp_path)
    workdir.state.mkdir()
    return workdir


def test_secret_and_certificate_are_made_once_and_only_their_owner_can_read_them(workdir: Workdir) -> None:
    token, _ = keep_identity(workdir)
    assert len(token.secret) == 64
    assert keep_identity(workdir)[0] == read_token(workdir) == token
    if sys.platform != "win32":
        for path in (workdir.token, workdir.certificate):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    left = {path.name for path in workdir.root.rglob("*")}
    assert left == {".experiment_token", ".experiment_manager", "certificate.pem"}, "nothing half written"


def test_two_folders_have_nothing_in_common(workdir: Workdir) -> None:
    other = Workdir(workdir.root / "other")
    other.state.mkdir(parents=True)
    token, their = keep_identity(workdir)[0], keep_identity(other)[0]
    assert token.secret != their.secret
    assert token.fingerprint != their.fingerprint


def test_a_lost_certificate_is_made_again_and_workers_elsewhere_are_told_to_copy(
    workdir: Workdir, caplog: pytest.LogCaptureFixture
) -> None:
    before, _ = keep_identity(workdir)
    workdir.certificate.unlink()
    after, _ = keep_identity(workdir)
    assert after.secret == before.secret
    assert after.fingerprint != before.fingerprint
    assert caplog.messages == [
        f"The certificate is new: workers elsewhere need a new copy of {workdir.token}"
    ]


def test_a_deleted_token_file_means_a_new_secret(workdir: Workdir) -> None:
    before, _ = keep_identity(workdir)
    workdir.token.unlink()
    after, _ = keep_identity(workdir)
    assert after.secret != before.secret
    assert after.fingerprint == before.fingerprint


@pytest.mark.parametrize("content", [b"", b"\xff", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_damaged_certificate_is_one_clear_line(workdir: Workdir, content: bytes) -> None:
    keep_identity(workdir)
    workdir.certificate.write_bytes(content)
    with pytest.raises(UserError) as error:
        keep_identity(workdir)
    assert str(error.value) == (
        f"{workdir.certificate}: found no key and certificate, expected those of this folder; "
        "delete it, and the next start of the manager makes new ones"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no such modes")
def test_a_key_that_others_can_read_is_refused(workdir: Workdir) -> None:
    keep_identity(workdir)
    workdir.certificate.chmod(0o640)
    with pytest.raises(UserError, match="found mode 0640, so that other users can read the secret"):
        keep_identity(workdir)
