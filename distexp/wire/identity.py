"""The manager's side of trust: a secret and a certificate, made once a folder."""

import datetime
import logging
import secrets
import ssl

from distexp.errors import UserError
from distexp.wire.auth import Token, fingerprint, read_token, require_private, server_context
from distexp.workdir import Workdir, write_private

SECRET_BYTES = 32  # 256 bits: nobody guesses it
VALID_DAYS = 36500  # nobody looks at the dates: workers pin the certificate, and clocks jump
CERTIFICATE_BEGINS = "-----BEGIN CERTIFICATE-----"

log = logging.getLogger("distexp.manager")


def keep_identity(workdir: Workdir) -> tuple[Token, ssl.SSLContext]:
    """Return the folder's token and its side of TLS; make what is missing. Caller holds the folder.

    Raises:
        UserError: A file of them is damaged, unreadable, or readable by others.
    """
    token = read_token(workdir)
    if not workdir.certificate.exists():
        write_private(workdir.certificate, make_certificate())
    require_private(workdir.certificate)
    try:
        pem = workdir.certificate.read_text(encoding="ascii")
        shown = fingerprint(ssl.PEM_cert_to_DER_cert(pem[pem.index(CERTIFICATE_BEGINS) :]))
        context = server_context(workdir.certificate)
    except (OSError, ValueError):  # ssl.SSLError is an OSError, UnicodeDecodeError a ValueError
        raise UserError(
            f"{workdir.certificate}: found no key and certificate, expected those of this folder; "
            "delete it, and the next start of the manager makes new ones"
        ) from None
    if token is None or token.fingerprint != shown:
        if token is not None:
            log.warning("The certificate is new: workers elsewhere need a new copy of %s", workdir.token)
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
