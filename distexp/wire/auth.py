"""Authentication: a folder's token and certificate, made once, and TLS that is pinned to them.

A client shows the secret, the manager its certificate; the token holds what is needed for both.
"""

import datetime
import hashlib
import hmac
import logging
import os
import secrets
import socket
import ssl
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from distexp.errors import ManagerUnreachable, OtherManager, TokenIncomplete, UserError
from distexp.system.files import SMALL_BYTES, read_bytes
from distexp.workdir import Workdir, write_private

TOKEN_VARIABLE = "EXPERIMENT_TOKEN"
TOKEN_BEGINS = b'{"secret":'  # as `Token.text` writes it
TLS_FIRST_BYTE = b"\x16"  # of a handshake record (RFC 8446, section 5.1); no JSON begins with it
SECRET_BYTES = 32  # 256 bits: nobody guesses it
VALID_DAYS = 36500  # nobody looks at the dates: workers pin the certificate, and clocks jump
CERTIFICATE_BEGINS = "-----BEGIN CERTIFICATE-----"

log = logging.getLogger("distexp.manager")


class _TokenText(msgspec.Struct, frozen=True):
    secret: Annotated[str, Meta(min_length=1)]  # an empty one would let everybody in
    fingerprint: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


@dataclass(frozen=True)
class Token:
    """What lets a worker in and tells it that the manager is the right one."""

    secret: str = field(repr=False)
    fingerprint: str  # SHA-256 of the manager's certificate (DER), in hex
    source: str  # file or variable that it was read from, for messages

    def text(self) -> str:
        """Return the line that stands in the token file."""
        return msgspec.json.encode(_TokenText(self.secret, self.fingerprint)).decode() + "\n"


def parse_token(text: bytes, source: str, remedy: str) -> Token:
    """Return the token.

    Raises:
        UserError: The text is none. Holds `source` and `remedy`, never the text.
    """
    try:
        found = msgspec.json.decode(text, type=_TokenText)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise UserError(
            f'{source}: holds no token such as {{"secret": ..., "fingerprint": ...}}; {remedy}'
        ) from None
    return Token(found.secret, found.fingerprint, source)


def given_token() -> Token | None:
    """Return the token of the environment, None where there is none.

    Raises:
        UserError: What stands there is none.
    """
    text = os.environ.get(TOKEN_VARIABLE)
    if not text:
        return None
    return parse_token(
        text.encode(errors="replace"), TOKEN_VARIABLE, "give it the text of .experiment_manager/token"
    )


def read_token(workdir: Workdir) -> Token | None:
    """Return the token of a folder, None where there is none.

    Raises:
        UserError: The file holds none, or other users can read it.
        TokenIncomplete: It holds the beginning of one.
    """
    try:
        text = read_bytes(workdir.token, SMALL_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{workdir.token}: cannot be read ({error.strerror})") from None
    remedy = "delete it, and the next start of the manager makes a new one"
    if TOKEN_BEGINS.startswith(text.strip()[: len(TOKEN_BEGINS)]) and not text.strip().endswith(b"}"):
        raise TokenIncomplete(f"{workdir.token}: ends in the middle of the token; {remedy}")
    require_private(workdir.token)
    return parse_token(text, str(workdir.token), remedy)


def require_private(path: Path) -> None:
    """Refuse a secret that others can read. Windows keeps no such modes: there it is the folder's rights.

    Raises:
        UserError: Group or others have rights on the file.
    """
    if sys.platform == "win32":
        return
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UserError(
            f"{path}: other users can read this secret (mode {mode:04o}); "
            f"run `chmod 600 {path}`, or delete it if somebody may have read it"
        )


def fingerprint(certificate: bytes) -> str:
    """Return the SHA-256 of a certificate in DER form, in hex."""
    return hashlib.sha256(certificate).hexdigest()


def server_context(pem: Path) -> ssl.SSLContext:
    """Return what the manager's side of TLS needs; `pem` holds key and certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # nobody resumes; and an idle worker's socket must be readable only at its end
    context.load_cert_chain(pem)
    return context


def client_context() -> ssl.SSLContext:
    """Return what a worker's side of TLS needs. It trusts nobody: `secure` looks at the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the pinned certificate is the identity, whatever the address
    context.verify_mode = ssl.CERT_NONE
    return context


def secure(sock: socket.socket, context: ssl.SSLContext, token: Token, address: str) -> ssl.SSLSocket:
    """Return the socket in TLS, once the peer has shown that it is the token's manager.

    Raises:
        OSError: The connection broke, or the handshake took longer than the socket's timeout.
        ManagerUnreachable: The peer speaks something else. Ours may come back.
        OtherManager: It is another manager.
    """
    try:
        tls = context.wrap_socket(sock)
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
        raise ConnectionResetError("the connection was closed in the handshake") from None
    except ssl.SSLError as error:
        raise ManagerUnreachable(
            f"{address}: another program answers there, not a manager ({error.reason})"
        ) from None
    shown = fingerprint(tls.getpeercert(binary_form=True) or b"")
    if hmac.compare_digest(shown, token.fingerprint):
        return tls
    tls.close()
    remedy = f"unset {TOKEN_VARIABLE} or set it again" if token.source == TOKEN_VARIABLE else "copy it again"
    raise OtherManager(
        f"{address}: this manager's certificate is not the one that {token.source} names (no secret was "
        f"sent): {remedy} if it is of an earlier manager, or name another host and port"
    )


def load_or_make_identity(workdir: Workdir) -> tuple[Token, ssl.SSLContext]:
    """Return the folder's token and the manager's side of TLS; make what is missing.

    Caller holds the folder's lock.

    Raises:
        UserError: A file of them is damaged, unreadable, or readable by others.
    """
    token = read_token(workdir)
    if not os.path.exists(workdir.certificate):
        write_private(workdir.certificate, make_certificate())
    require_private(workdir.certificate)
    try:
        pem = read_bytes(workdir.certificate, SMALL_BYTES).decode("ascii")
        shown = fingerprint(ssl.PEM_cert_to_DER_cert(pem[pem.index(CERTIFICATE_BEGINS) :]))
        context = server_context(workdir.certificate)
    except (OSError, ValueError):  # ssl.SSLError is an OSError, UnicodeDecodeError a ValueError
        raise UserError(
            f"{workdir.certificate}: holds no usable key and certificate; delete it, and the next start of "
            "the manager makes new ones"
        ) from None
    if token is None or token.fingerprint != shown:
        if token is not None:
            log.warning("New certificate: workers on other machines need a new copy of %s", workdir.token)
        secret = token.secret if token else secrets.token_hex(SECRET_BYTES)
        token = Token(secret, shown, str(workdir.token))
        write_private(workdir.token, token.text())
        require_private(workdir.token)  # a disk without modes would show it to everybody
    return token, context


def make_certificate() -> str:
    """Return a new private key and a certificate signed with it (PEM)."""
    # Imported here: it takes a tenth of a second, and is needed once in the life of a folder.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "distexp manager")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return (key_pem + certificate.public_bytes(serialization.Encoding.PEM)).decode("ascii")
