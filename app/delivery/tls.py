"""TLS towards a peer: whom we trust, and what we show of ourselves.

The files are read for every association, so that a renewed certificate needs no
restart. The peer's certificate must bear the host name by which we call it: a
certificate of the same authority on another machine is another machine.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from app.intake.tls import TlsFileError, server_context


@dataclass(frozen=True)
class TlsFiles:
    """PEM files.

    Attributes
    ----------
    ca : Path
        Those that sign the peer's certificate; the system's own are not asked.
    certificate, private_key : Path or None
        Ours, for peers that ask for it; the key without a passphrase.
    """

    ca: Path
    certificate: Path | None = None
    private_key: Path | None = None

    def client_context(self) -> ssl.SSLContext:
        """For calling the peer: TLS 1.2 or newer, its certificate verified.

        Raises
        ------
        TlsFileError
            A file can't serve.
        """
        if self.certificate is not None and self.private_key is not None:
            self.server_context()  # its checks are those of a client too, and name the file
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_verify_locations(self.ca)
        except (ssl.SSLError, OSError) as error:
            raise TlsFileError(self.ca, error.strerror or "holds no certificate") from error
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.private_key)
        return context

    def server_context(self) -> ssl.SSLContext:
        """For being called back by the peer: it has to show a certificate too.

        Raises
        ------
        TlsFileError
            A file can't serve.
        """
        assert self.certificate is not None and self.private_key is not None  # settings see to it
        return server_context(self.certificate, self.private_key, self.ca)
