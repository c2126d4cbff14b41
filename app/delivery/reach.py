"""Why a peer can't be reached, in words: the name, the port, the way there, or TLS.

Asked after a failure only. Clients report all of them as "connection failed", and
which of them it was is what an administrator has to know.
"""

from __future__ import annotations

import os
import socket
import ssl
from contextlib import suppress
from urllib.parse import urlsplit

from requests import certs

SECONDS = 5.0
LISTEN_SECONDS = 0.5  # TLS 1.3: that our certificate is refused arrives after the handshake


def why_not(host: str, port: int, tls: ssl.SSLContext | None = None) -> str | None:
    """Connect once more, to see how far it goes.

    Parameters
    ----------
    host, port : str, int
        The peer.
    tls : ssl.SSLContext or None
        With which to shake hands.

    Returns
    -------
    str or None
        The first thing that fails, or None where nothing does: then what goes wrong
        lies in what was said over the connection.
    """
    try:
        connection = socket.create_connection((host, port), SECONDS)
    except socket.gaierror:
        return f"the name {host} is not known here (DNS)"
    except ConnectionRefusedError:
        return f"connection refused: nothing listens on port {port} of {host}"
    except TimeoutError:
        return f"no answer from {host}:{port} within {SECONDS:g} s: down, or behind a firewall"
    except OSError as error:
        return f"no way to {host}:{port}: {error.strerror or type(error).__name__}"
    with connection:
        return _tls_trouble(connection, host, tls) if tls is not None else None


def why_not_url(url: str) -> str | None:
    """The same for an HTTP server; TLS is judged by the authorities that `requests` trusts."""
    parts = urlsplit(url)
    tls = None
    if parts.scheme == "https":
        bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        tls = ssl.create_default_context(cafile=bundle or certs.where())
    return why_not(parts.hostname or "", parts.port or (443 if tls else 80), tls)


def _tls_trouble(connection: socket.socket, host: str, tls: ssl.SSLContext) -> str | None:
    try:
        with tls.wrap_socket(connection, server_hostname=host) as secured:
            secured.settimeout(LISTEN_SECONDS)
            with suppress(TimeoutError):  # it waits for us to speak: all is well
                secured.recv(1)
    except ssl.SSLCertVerificationError as error:
        return f"TLS: its certificate is not accepted here: {error.verify_message}"
    except TimeoutError:
        return "TLS: no answer to the handshake: that port may not speak TLS"
    except ssl.SSLError as error:
        if error.reason == "WRONG_VERSION_NUMBER":
            return "TLS: what that port answers is no TLS"
        reason = (error.reason or "no reason given").lower().replace("_", " ")
        return f"TLS: {reason} (does it accept our certificate?)"
    except OSError as error:
        why = error.strerror or type(error).__name__
        return f"TLS: the peer ended the handshake ({why}): that port may not speak TLS"
    return None
