"""What stands in the way is named: the name, the port, TLS, the AE title."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from app.delivery.cstore import CStoreDestination
from app.delivery.destination import (
    DeliveryRefusal,
    Destination,
    DestinationRefused,
    DestinationUnreachable,
)
from app.delivery.orthanc import OrthancDestination
from app.delivery.rejections import Rejections
from app.delivery.stow import StowDestination
from app.delivery.tls import TlsFiles
from app.demo.orthanc import free_port
from app.intake.tls import server_context
from tests.app.authority import Authority


def kinds(host: str, port: int, scheme: str = "http") -> list[Destination]:
    """One destination of each kind that has an address."""
    url = f"{scheme}://{host}:{port}"
    return [
        OrthancDestination(url),
        CStoreDestination("PACS", host, port),
        StowDestination(f"{url}/dicom-web", Rejections(Path("/nonexistent"))),
    ]


def said(refusal: type[DeliveryRefusal], destination: Destination) -> str:
    with pytest.raises(refusal) as caught:
        destination.self_test()
    return str(caught.value)


@pytest.mark.parametrize("number", range(3))
def test_a_name_and_a_port_are_told_apart(number: int) -> None:
    port = free_port()

    # .invalid never has an address (RFC 2606).
    unknown = said(DestinationUnreachable, kinds("pacs.invalid", port)[number])
    closed = said(DestinationUnreachable, kinds("127.0.0.1", port)[number])

    assert "the name pacs.invalid is not known here (DNS)" in unknown
    assert f"connection refused: nothing listens on port {port}" in closed


@pytest.fixture
def serve() -> Iterator[Callable[..., int]]:
    """Start a storage SCP with keywords of `start_server`; its port."""
    servers = []

    def start(require_calling: str = "", require_called: bool = False, **words: object) -> int:
        entity = AE(ae_title="PACS")
        entity.require_called_aet = require_called
        entity.require_calling_aet = [require_calling] if require_calling else []
        entity.add_supported_context(Verification)
        servers.append(entity.start_server(("127.0.0.1", 0), block=False, **words))
        return int(servers[-1].server_address[1])

    yield start
    for server in servers:
        server.shutdown()


def test_whose_ae_title_is_wrong_is_told(serve: Callable[..., int]) -> None:
    port = serve(require_called=True)
    theirs = said(DestinationRefused, CStoreDestination("PASC", "127.0.0.1", port))
    port = serve(require_calling="SOMEBODY")
    ours = said(DestinationRefused, CStoreDestination("PACS", "127.0.0.1", port))

    assert "A-ASSOCIATE-RJ (Called AE title not recognised)" in theirs
    assert "PASC is not its AE title" in theirs
    assert "A-ASSOCIATE-RJ (Calling AE title not recognised)" in ours
    assert "Make the AE title RADLOOP known there" in ours


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


def over_tls(port: int, tls: TlsFiles | None, host: str = "127.0.0.1") -> CStoreDestination:
    return CStoreDestination("PACS", host, port, tls=tls)


def test_mutual_tls_is_spoken(serve: Callable[..., int], authority: Authority) -> None:
    theirs, ours = authority.sign("pacs"), authority.sign("radloop")
    port = serve(ssl_context=server_context(theirs.certificate, theirs.private_key, authority.ca))

    tls = TlsFiles(authority.ca, ours.certificate, ours.private_key)

    assert over_tls(port, tls).self_test() == "C-ECHO answered 0x0000"


def test_every_tls_fault_has_its_own_words(
    serve: Callable[..., int], authority: Authority, tmp_path: Path
) -> None:
    theirs, elsewhere = authority.sign("pacs"), authority.sign("other", host="DNS:elsewhere")
    stranger = Authority(tmp_path / "stranger")
    foreign = stranger.sign("radloop")
    plain = serve()
    port = serve(ssl_context=server_context(theirs.certificate, theirs.private_key, None))
    mutual = serve(ssl_context=server_context(theirs.certificate, theirs.private_key, authority.ca))
    other = serve(ssl_context=server_context(elsewhere.certificate, elsewhere.private_key, None))
    trusted = TlsFiles(authority.ca)

    assert over_tls(port, trusted).self_test()
    assert "unable to get local issuer" in said(
        DestinationUnreachable, over_tls(port, TlsFiles(stranger.ca))
    )
    assert "not valid for '127.0.0.1'" in said(DestinationUnreachable, over_tls(other, trusted))
    assert "certificate required" in said(DestinationUnreachable, over_tls(mutual, trusted))
    shown = TlsFiles(authority.ca, foreign.certificate, foreign.private_key)
    assert "unknown ca" in said(DestinationUnreachable, over_tls(mutual, shown))
    assert "that port answers is no TLS" in said(DestinationUnreachable, over_tls(plain, trusted))
    assert "does it expect TLS" in said(DestinationUnreachable, over_tls(port, None))
    missing = TlsFiles(tmp_path / "no.pem")
    assert "no.pem: No such file" in said(DestinationUnreachable, over_tls(port, missing))


def test_a_peer_that_never_answers_is_not_waited_for_longer_than_a_self_test() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        message = said(DestinationUnreachable, CStoreDestination("PACS", "127.0.0.1", port))

    assert "said nothing to the association" in message


@pytest.mark.parametrize("number", [0, 2])
def test_an_http_server_of_ones_own_authority_is_trusted_by_the_environment(
    number: int, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = b"{}" if "/system" in self.path or "/statistics" in self.path else b"[]"
            self.send_response(200)
            self.send_header("Content-Type", "application/dicom+json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *words: object) -> None:
            del words

    theirs = authority.sign("pacs")
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        context = server_context(theirs.certificate, theirs.private_key, None)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        destination = kinds("127.0.0.1", server.server_port, "https")[number]

        untrusted = said(DestinationUnreachable, destination)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.ca))
        trusted = destination.self_test()
        server.shutdown()

    assert "TLS: its certificate is not accepted here: unable to get local issuer" in untrusted
    assert trusted
