"""What a DICOMweb server may answer, and what of it counts as delivered."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from app.delivery.destination import (
    ContentDiffers,
    DeliveryRefusal,
    DestinationRefused,
    DestinationUnreachable,
    NotYet,
)
from app.delivery.rejections import Rejections
from app.delivery.stow import StowDestination, differing
from tests.app.instances import encoded, instance, write


@dataclass
class Server:
    """A DICOMweb server that keeps what it gets, and gives back what a test wants."""

    url: str = ""
    post_status: int = 200
    post_body: dict[str, object] = field(default_factory=dict)
    get_status: int = 200
    given_back: Dataset | None = None
    stored: list[bytes] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            state.authorizations.append(self.headers["Authorization"])
            state.stored += _parts(self.headers["Content-Type"], self._body())
            self._send(state.post_status, "application/dicom+json", json.dumps(state.post_body))

        def do_GET(self) -> None:
            content = encoded(state.given_back) if state.given_back else state.stored[-1]
            body = b"--x\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--x--\r\n"
            kind = 'multipart/related; type="application/dicom"; boundary=x'
            self._send(state.get_status, kind, body)

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers["Content-Length"]))

        def _send(self, status: int, kind: str, body: str | bytes) -> None:
            content = body.encode() if isinstance(body, str) else body
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *words: object) -> None:
            del words

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        state.url = f"http://127.0.0.1:{http.server_port}/dicom-web"
        yield state
        http.shutdown()


def _parts(kind: str, body: bytes) -> list[bytes]:
    message = message_from_bytes(
        b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body, policy=HTTP
    )
    return [part.get_payload(decode=True) for part in message.iter_parts()]  # type: ignore[misc]


def destination(server: Server, **account: str) -> StowDestination:
    return StowDestination(server.url, Rejections(Path("/nonexistent")), **account)


def failure(reason: int) -> dict[str, object]:
    """The body of an answer of which one object failed (PS3.18 I.2.2)."""
    item = {"00081197": {"vr": "US", "Value": [reason]}}
    return {"00081198": {"vr": "SQ", "Value": [item]}}


def test_who_we_are_is_said_with_each_request(server: Server, tmp_path: Path) -> None:
    files = write(tmp_path, instance(1))

    destination(server, token="geheim").deliver(files)
    destination(server, user="radloop", password="geheim").deliver(files)

    assert server.authorizations == ["Bearer geheim", "Basic cmFkbG9vcDpnZWhlaW0="]


def implicit(dataset: Dataset) -> None:
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian


def compressed(dataset: Dataset) -> None:
    dataset.compress(RLELossless, generate_instance_uid=False)


@pytest.mark.parametrize("encode_anew", [implicit, compressed])
def test_the_same_in_another_encoding_is_delivered(
    encode_anew: object, server: Server, tmp_path: Path
) -> None:
    given_back = instance(1)
    encode_anew(given_back)  # type: ignore[operator]
    server.given_back = given_back

    destination(server).deliver(write(tmp_path, instance(1)))

    assert encoded(given_back) != encoded(instance(1))


@pytest.mark.parametrize("encode_anew", [lambda dataset: None, implicit, compressed])
@pytest.mark.parametrize(
    ("keyword", "value", "tag"),
    [
        ("PatientName", "Doe^John", "0010,0010"),
        ("PixelData", b"\1\0" * 1023 + b"\2\0", "7FE0,0010"),
        ("AccessionNumber", "1", "0008,0050"),
        ("ImageComments", None, "0020,4000"),
    ],
)
def test_a_changed_element_or_pixel_is_not(
    keyword: str,
    value: object,
    tag: str,
    encode_anew: object,
    server: Server,
    tmp_path: Path,
) -> None:
    given_back = instance(1, comment="ours")
    if value is None:
        delattr(given_back, keyword)
    else:
        setattr(given_back, keyword, value)
    encode_anew(given_back)  # type: ignore[operator]
    server.given_back = given_back

    with pytest.raises(ContentDiffers, match=rf"1 elements differ \(\({tag}\)\)") as caught:
        destination(server).deliver(write(tmp_path, instance(1, comment="ours")))

    assert "Doe" not in str(caught.value)


def test_the_padding_of_odd_pixels_says_nothing() -> None:
    ours, theirs = instance(1), instance(1)
    for dataset, end in ((ours, b"\0"), (theirs, b"\1")):
        dataset.Rows = dataset.Columns = 3
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.PixelData = bytes(range(9)) + end

    assert differing(ours, theirs) == []
    theirs.PixelData = bytes(range(1, 10)) + b"\0"
    assert differing(ours, theirs) == ["(7FE0,0010)"]


@pytest.mark.parametrize(
    ("answer", "refusal", "says"),
    [
        ({"post_status": 409, "post_body": failure(0x0122)}, DestinationRefused, "409, .* 0x0122"),
        ({"post_status": 409, "post_body": failure(0xA700)}, DestinationUnreachable, "0xa700"),
        ({"post_status": 202, "post_body": failure(0xC000)}, DestinationRefused, "202, .* 0xc000"),
        ({"post_status": 401}, DestinationRefused, "HTTP 401. Set stow_user"),
        ({"post_status": 403}, DestinationRefused, "HTTP 403"),
        ({"post_status": 413}, DestinationRefused, "HTTP 413"),
        ({"post_status": 429}, DestinationUnreachable, "HTTP 429"),
        ({"post_status": 503}, DestinationUnreachable, "HTTP 503"),
        ({"get_status": 404}, NotYet, "took 000.dcm, but does not give it back yet"),
        ({"get_status": 403}, DestinationRefused, "refused reading it back with HTTP 403"),
        ({"get_status": 500}, DestinationUnreachable, "HTTP 500"),
    ],
)
def test_answers_are_sorted_into_now_and_never(
    answer: dict[str, object],
    refusal: type[DeliveryRefusal],
    says: str,
    server: Server,
    tmp_path: Path,
) -> None:
    for name, value in answer.items():
        setattr(server, name, value)

    with pytest.raises(refusal, match=says) as caught:
        destination(server, user="radloop", password="geheim").deliver(write(tmp_path, instance(1)))

    assert "geheim" not in str(caught.value) and server.url in str(caught.value)


def test_a_page_that_is_no_dicomweb_is_refused(server: Server, tmp_path: Path) -> None:
    server.post_body = {"login": "please"}

    with pytest.raises(DestinationRefused, match="Its answer is no DICOMweb"):
        destination(server).deliver(write(tmp_path, instance(1)))


def test_what_is_sent_is_the_file(server: Server, tmp_path: Path) -> None:
    (file,) = write(tmp_path, instance(1))

    destination(server).deliver([file])

    assert pydicom.dcmread(io.BytesIO(server.stored[0])) == pydicom.dcmread(file)
