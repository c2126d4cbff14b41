"""TLS from files: a server context, and why it can't be made.

TLS 1.2 or newer (PS3.15 B.9, BCP 195). With a CA named, a peer has to show a
certificate that this CA signed; without, the connection is only encrypted.
"""

from __future__ import annotations

import ssl
from pathlib import Path


class TlsError(ValueError):
    """TLS is not possible so."""


class TlsFileError(TlsError):
    """A file can't serve; the message names it and the reason."""

    def __init__(self, file: Path, why: str) -> None:
        self.file = file
        super().__init__(f"{file}: {why}")


def listener_context(
    certificate: Path | None, private_key: Path | None, ca: Path | None
) -> ssl.SSLContext | None:
    """What the settings ask for; None where they name no file: no TLS.

    Raises
    ------
    TlsError
        One file is named without the other that it needs, or can't serve.
    """
    if certificate is not None and private_key is not None:
        return server_context(certificate, private_key, ca)
    if certificate is not None or private_key is not None or ca is not None:
        # Never plain where somebody wanted TLS.
        raise TlsError("tls_certificate and tls_private_key are needed both, tls_ca only with them")
    return None


def server_context(certificate: Path, private_key: Path, ca: Path | None) -> ssl.SSLContext:
    """What we show to peers that connect, and ask of them.

    Parameters
    ----------
    certificate : Path
        PEM: ours, then those between it and the root.
    private_key : Path
        PEM, without a passphrase.
    ca : Path or None
        PEM: those that sign peers' certificates; None asks for none.

    Raises
    ------
    TlsFileError
        A file is missing, unreadable, no PEM, protected, or not the other's.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # a peer could make us do nothing else
    _require_pem(certificate, "CERTIFICATE")
    _require_pem(private_key, "PRIVATE KEY")
    protected = False

    def no_passphrase() -> str:  # or OpenSSL would ask on the terminal
        nonlocal protected
        protected = True
        return ""

    try:
        context.load_cert_chain(certificate, private_key, no_passphrase)
    except (ssl.SSLError, OSError, ValueError) as error:
        if protected:
            why = "is protected by a passphrase; store it without one, readable by this user only"
            raise TlsFileError(private_key, why) from error
        if "KEY_VALUES_MISMATCH" in str(error):
            raise TlsFileError(private_key, f"is not the key of {certificate}") from error
        raise TlsFileError(certificate, f"{_reason(error)} (with {private_key})") from error
    if ca is not None:
        _require_pem(ca, "CERTIFICATE")
        try:
            context.load_verify_locations(ca)
        except (ssl.SSLError, OSError) as error:
            raise TlsFileError(ca, _reason(error)) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def expires_at(certificate: Path, private_key: Path) -> float:
    """When our certificate ends, in seconds since the epoch.

    Found by a handshake with ourselves in memory, trusting this certificate alone:
    it says more than reading the date would, namely that a peer could connect.

    Raises
    ------
    TlsFileError
        It can't serve, is not valid yet or not any more, or is not a server's.
    """
    server = server_context(certificate, private_key, None)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it needs no root to be trusted here
    client.load_verify_locations(certificate)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(up, down, server_side=True)
    peer = client.wrap_bio(down, up)
    try:
        for side in (peer, ours, peer):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    except ssl.SSLCertVerificationError as error:
        raise TlsFileError(certificate, error.verify_message) from error
    except ssl.SSLError as error:
        raise TlsFileError(certificate, _reason(error)) from error
    shown = peer.getpeercert()
    assert shown is not None
    return float(ssl.cert_time_to_seconds(str(shown["notAfter"])))


def _require_pem(file: Path, kind: str) -> None:
    try:
        lines = file.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError as error:
        raise TlsFileError(file, f"can't be read ({error.strerror})") from error
    if not any(line.startswith("-----BEGIN") and kind in line for line in lines):
        raise TlsFileError(file, f"holds no PEM block -----BEGIN … {kind}-----")


def _reason(error: Exception) -> str:
    """OpenSSL's own words, without its source file and line."""
    words = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return str(words).replace("_", " ").lower()
