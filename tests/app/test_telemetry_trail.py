"""The trail: durable and private in the file, standard frames at a real syslog server."""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from app.settings import Settings, parse_syslog
from app.telemetry.audit import AuditedStudy, Message, Node, instances_accessed
from app.telemetry.backlog import Backlog
from app.telemetry.refusals import AuditFileUnusable
from app.telemetry.trail import QUEUED, AuditTrail, SyslogServer, open_trail, syslog_line
from tests.app.conftest import until

ME = Node("RADLOOP")
# RFC 5424 6: <PRI>1 TIMESTAMP HOSTNAME APP-NAME PROCID MSGID - BOM MSG
SYSLOG = re.compile(
    rb"<85>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z [\x21-\x7e]{1,255} radloop \d+ "
    rb"DICOM\+RFC3881 - \xef\xbb\xbf(<AuditMessage>.*</AuditMessage>)",
    re.S,
)


def message(uid: str = "1.2.3") -> Message:
    return instances_accessed(ME, AuditedStudy(uid, "PAT-4711", {}))


def write_many(file: Path, process: int) -> None:
    trail = AuditTrail("RADLOOP", file=file)
    for number in range(50):
        trail.record(message(f"1.{process}.{number}"))
    trail.close()


def test_lines_of_several_processes_do_not_mix_and_are_private(tmp_path: Path) -> None:
    file = tmp_path / "audit" / "audit.xml"
    context = get_context("spawn")
    writers = [context.Process(target=write_many, args=(file, n)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    lines = file.read_bytes().splitlines()
    uids = {
        o.attrib["ParticipantObjectID"]
        for line in lines
        for o in ET.fromstring(line).iter("ParticipantObjectIdentification")
    }
    assert len(lines) == 150 and len(uids - {"PAT-4711"}) == 150 and "PAT-4711" in uids
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_second_start_goes_on_in_the_same_file(tmp_path: Path) -> None:
    for _ in range(2):
        trail = AuditTrail("RADLOOP", file=tmp_path / "audit.xml")
        trail.record(message())
        trail.close()

    assert len((tmp_path / "audit.xml").read_bytes().splitlines()) == 2


def test_a_file_that_can_not_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AuditFileUnusable, match="RADLOOP_AUDIT_FILE"):
        AuditTrail("RADLOOP", file=tmp_path / "file" / "audit.xml")
    full = AuditTrail("RADLOOP", file=Path("/dev/full"))
    with pytest.raises(AuditFileUnusable, match="No space left"):
        full.record(message())


class Disk:
    """A trail whose file's disk is full when it is told so; the backlog's never is."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, backlog_bytes: int = 1 << 20
    ) -> None:
        monkeypatch.setattr("app.telemetry.trail.AGAIN_SECONDS", 0.0)
        self.file, self.backlog = (
            folder / "audit.xml",
            Backlog(folder / "backlog.xml", backlog_bytes),
        )
        self._real = os.write
        self._full = self._part = False
        monkeypatch.setattr("app.telemetry.trail.os.write", self._write)
        self.trail = AuditTrail("RADLOOP", file=self.file, backlog=self.backlog)
        self._inode = self.file.stat().st_ino

    def fill(self, full: bool, part: bool = False) -> None:
        self._full, self._part = full, part

    def _write(self, descriptor: int, data: bytes) -> int:
        if self._full and os.fstat(descriptor).st_ino == self._inode:
            if self._part:
                return self._real(descriptor, data[:40])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._real(descriptor, data)

    def told(self) -> list[str]:
        """Study of each whole message in the file, in order; or what an alert describes."""
        found = []
        for line in self.file.read_bytes().splitlines():
            if line.endswith(b"</AuditMessage>"):
                (first, *_) = ET.fromstring(line).iter("ParticipantObjectIdentification")
                found.append(first.attrib["ParticipantObjectID"])
        return found


@pytest.mark.parametrize("part", [False, True])
def test_what_a_full_disk_refuses_is_repeated_in_order_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: bool
) -> None:
    disk = Disk(tmp_path, monkeypatch)
    disk.trail.record(message("1.1"))
    disk.fill(True, part)
    disk.trail.record(message("1.2"))
    assert "can't be written" in (disk.trail.tend() or "") and disk.trail.waiting == 1
    disk.trail.close()
    assert stat.S_IMODE((tmp_path / "backlog.xml").stat().st_mode) == 0o600

    disk.fill(False)
    again = AuditTrail("RADLOOP", file=disk.file, backlog=disk.backlog)
    again.record(message("1.3"))
    assert again.tend() is None and again.waiting == 0
    again.record(message("1.4"))

    assert disk.told() == ["1.1", "1.2", "1.3", "1.4"]
    assert not (tmp_path / "backlog.xml").exists()


def test_where_the_backlog_is_full_too_the_trail_says_how_many_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(tmp_path, monkeypatch, backlog_bytes=1500)
    disk.fill(True)
    disk.trail.record(message("1.1"))
    for number in (2, 3):
        with pytest.raises(AuditFileUnusable):
            disk.trail.record(message(f"1.{number}"))

    disk.fill(False)
    assert disk.trail.tend() is None
    disk.trail.record(message("1.4"))

    assert disk.told() == ["1.1", disk.file.as_uri(), "1.4"]
    assert b"2 audit messages could be written nowhere" in disk.file.read_bytes()


def test_udp_gets_one_datagram_each_without_the_patient(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)
        port = server.getsockname()[1]
        trail = open_trail(Settings(audit_syslog=f"udp://127.0.0.1:{port}", spool=tmp_path))
        trail.record(message())
        got = server.recv(65535)
        trail.close()

    found = SYSLOG.fullmatch(got)
    assert found and ET.fromstring(found[1]).tag == "AuditMessage"
    assert b"PAT-4711" not in got and b"withheld" in got


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    key, file = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(
        [*command.split(), "-keyout", key, "-out", file, *names], check=True, capture_output=True
    )
    return file, key


class TlsServer:
    """Keeps the bytes that TLS clients send."""

    def __init__(self, certificate: tuple[Path, Path], port: int = 0) -> None:
        self.got, self.refused = b"", 0
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*certificate)
        self._listening = socket.create_server(("127.0.0.1", port))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(client, server_side=True) as secure:
                    while block := secure.recv(65536):
                        self.got += block
            except OSError:
                self.refused += 1

    def close(self) -> None:
        self._listening.close()


@pytest.fixture
def tls(certificate: tuple[Path, Path]) -> Iterator[TlsServer]:
    server = TlsServer(certificate)
    yield server
    server.close()


def frames(stream: bytes) -> list[bytes]:
    """RFC 5425 4.3: MSG-LEN SP SYSLOG-MSG."""
    found = []
    while stream:
        length, _, rest = stream.partition(b" ")
        found.append(rest[: int(length)])
        stream = rest[int(length) :]
    return found


def test_tls_gets_counted_frames_on_one_connection(
    tls: TlsServer, certificate: tuple[Path, Path]
) -> None:
    server = SyslogServer(True, "localhost", tls.port, certificate[0])
    trail = AuditTrail("RADLOOP", server=server)
    for number in range(20):
        trail.record(message(f"1.2.{number}"))
    trail.close()

    until(lambda: tls.got.count(b"</AuditMessage>") == 20)
    assert all(SYSLOG.fullmatch(frame) for frame in frames(tls.got))
    assert b"PAT-4711" not in tls.got and trail.syslog_lost == 0


def test_a_server_that_nobody_vouches_for_gets_nothing(tls: TlsServer) -> None:
    trail = AuditTrail("RADLOOP", server=SyslogServer(True, "localhost", tls.port))
    trail.record(message())

    until(lambda: tls.refused)
    trail.close()
    assert tls.got == b"" and trail.syslog_lost == 1


def test_a_server_that_is_down_delays_nobody_and_is_counted(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    server = SyslogServer(True, "127.0.0.1", port)
    trail = AuditTrail("RADLOOP", file=tmp_path / "audit.xml", server=server)
    begun = time.monotonic()
    for _ in range(30):
        trail.record(message())
    assert time.monotonic() - begun < 5
    assert trail.syslog_lost == 0
    trail.close()

    assert trail.syslog_lost == 30  # now they are
    assert len((tmp_path / "audit.xml").read_bytes().splitlines()) == 30
    assert QUEUED >= 30


def test_what_a_server_that_was_down_missed_comes_in_order_up_to_a_bound(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.telemetry.trail.AGAIN_SECONDS", 0.05)
    monkeypatch.setattr("app.telemetry.trail.QUEUED", 20)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    trail = AuditTrail("RADLOOP", server=SyslogServer(True, "localhost", port, certificate[0]))
    for number in range(30):
        trail.record(message(f"1.2.{number}"))
        time.sleep(0.002)  # the thread has the first in hand
    lost = trail.syslog_lost

    server = TlsServer(certificate, port)
    try:
        until(lambda: server.got.count(b"</AuditMessage>") == 30 - lost)
        trail.close()
    finally:
        server.close()

    uids = [int(uid) for uid in re.findall(rb'ParticipantObjectID="1\.2\.(\d+)"', server.got)]
    assert lost == 30 - 21 and uids == list(range(21))


@pytest.mark.parametrize("wrong", ["udp://host", "http://h:1", "udp://u@h:1", "tls://h:70000"])
def test_another_address_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="udp://host:port"):
        parse_syslog(wrong)


def test_a_line_has_its_time_in_utc() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    assert syslog_line(b"<x/>", at, "host", 7) == (
        b"<85>1 2026-01-02T03:04:05.000678Z host radloop 7 DICOM+RFC3881 - \xef\xbb\xbf<x/>"
    )
