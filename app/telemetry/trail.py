"""Where audit messages go: a file, a syslog server, or both.

The file is the audit trail proper: one message a line, readable by its owner only, on
disk when `record` returns. What it does not take waits in a backlog in the spool and is
repeated in order; no other place gets Patient IDs. Where the backlog is full as well,
the trail itself says how many messages are missing, once it can be written again. Syslog
(RFC 5424, over UDP or TLS) gets the same message with the Patient ID withheld, from a
thread of its own: for a server that is down `QUEUED` messages wait in memory, in order; what
is more, or waits when the service stops, is counted in `syslog_lost`. It delays nobody.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from app.settings import Settings, parse_syslog
from app.telemetry.audit import Message, Node, recording_stopped
from app.telemetry.backlog import Backlog
from app.telemetry.refusals import AuditFileUnusable

# Facility 10 (security and authorization), severity 5 (notice): PS3.15 A.6.
PRIORITY = 10 * 8 + 5
MESSAGE_ID = "DICOM+RFC3881"
BOM = b"\xef\xbb\xbf"
QUEUED = 1000
CONNECT_SECONDS = 5.0
AGAIN_SECONDS = 5.0
BACKLOG_FILE = "audit-backlog.xml"


@dataclass(frozen=True)
class SyslogServer:
    """An audit record repository.

    Attributes
    ----------
    tls : bool
        TLS (RFC 5425), else UDP (RFC 5426).
    host, port : str, int
        Where it listens.
    ca_file : Path or None
        Who signed its certificate; None: the system's certificates.
    """

    tls: bool
    host: str
    port: int
    ca_file: Path | None = None


def syslog_line(xml: bytes, at: datetime, host: str, process: int) -> bytes:
    """One RFC 5424 message: header, no structured data, BOM, the audit message."""
    stamp = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    header = f"<{PRIORITY}>1 {stamp} {host} radloop {process} {MESSAGE_ID} - "
    return header.encode("ascii", "replace") + BOM + xml


class AuditTrail:
    """Takes messages in; neither file nor server set: they go nowhere.

    Parameters
    ----------
    source_id : str
        AuditSourceID, e.g. our AE title.
    file : Path or None
        Appended to; its folder is made.
    server : SyslogServer or None
        Gets a copy without Patient IDs.
    backlog : Backlog or None
        Keeps what the file does not take; None: such a message is refused.

    Attributes
    ----------
    lost : int
        Messages that neither file nor backlog took and that the trail has not told yet.

    Raises
    ------
    AuditFileUnusable
        The file can't be opened.
    """

    def __init__(
        self,
        source_id: str,
        *,
        file: Path | None = None,
        server: SyslogServer | None = None,
        backlog: Backlog | None = None,
    ) -> None:
        self._source_id, self._file, self._backlog = source_id, file, backlog
        self._torn = False
        self._not_before = 0.0
        self.lost = 0
        self._descriptor: int | None = None
        self._sender: _Sender | None = None
        if file is not None:
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
                self._descriptor = os.open(file, flags, 0o600)
                self._torn = _ends_within_a_line(file)
            except OSError as error:
                raise AuditFileUnusable(file, error.strerror or str(error)) from error
        if server is not None:
            self._sender = _Sender(server)

    def record(self, message: Message) -> None:
        """Write a message, or keep it until it can be written.

        Raises
        ------
        AuditFileUnusable
            It is neither in the file nor in the backlog; the trail will tell that
            messages are missing.
        """
        if self._sender is not None:
            xml = message.to_xml(self._source_id, withhold_patient=True)
            host = socket.gethostname() or "-"
            self._sender.put(syslog_line(xml, message.at, host, os.getpid()))
        if self._file is None:
            return
        line = message.to_xml(self._source_id, withhold_patient=False) + b"\n"
        if self.lost == 0 and (self._backlog is None or self._backlog.is_empty):
            why = self._try(line)
            if why is None:
                return
            self._not_before = time.monotonic() + AGAIN_SECONDS
        else:  # in its turn
            why = "older messages wait"
        try:
            if self.lost or self._backlog is None:
                raise OSError(why)
            self._backlog.add(line)
        except OSError as error:
            self.lost += 1
            raise AuditFileUnusable(self._file, str(why)) from error

    def tend(self) -> str | None:
        """Repeat what waits, now and then; why it still does, None where all is written.

        Call it often.
        """
        if self._file is None or (self.lost == 0 and (not self._backlog or self._backlog.is_empty)):
            return None
        if time.monotonic() < self._not_before:
            return f"{self.waiting} audit messages wait for {self._file}"
        self._not_before = time.monotonic() + AGAIN_SECONDS
        try:
            if self._backlog is not None:
                self._backlog.hand_over(self._write)
            if self.lost:
                gap = recording_stopped(Node(self._source_id), self._file, self.lost)
                self._write(gap.to_xml(self._source_id, withhold_patient=False) + b"\n")
                self.lost = 0
        except OSError as error:
            return AuditFileUnusable(self._file, error.strerror or str(error)).reason
        return None

    @property
    def waiting(self) -> int:
        """Messages that are not in the file yet; those that are lost count too."""
        return self.lost + (len(self._backlog) if self._backlog is not None else 0)

    def _try(self, line: bytes) -> str | None:
        """Write a line; why it could not be written."""
        try:
            self._write(line)
        except OSError as error:
            return error.strerror or str(error)
        return None

    def _write(self, line: bytes) -> None:
        assert self._descriptor is not None
        whole = b"\n" + line if self._torn else line
        # One write: with O_APPEND, lines of several processes don't mix.
        written = os.write(self._descriptor, whole)
        self._torn = written != len(whole) and (written > 0 or self._torn)
        if written != len(whole):
            raise OSError("the disk took a part of a message only")
        os.fdatasync(self._descriptor)

    @property
    def syslog_lost(self) -> int:
        """Messages that the syslog server did not get."""
        return self._sender.lost if self._sender is not None else 0

    def close(self, timeout_s: float = 2.0) -> None:
        """Send what is waiting, for `timeout_s` at most, and close the file."""
        if self._sender is not None:
            self._sender.close(timeout_s)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _ends_within_a_line(file: Path) -> bool:
    """Whether the disk took a part of the last message only."""
    if not file.is_file() or file.stat().st_size == 0:
        return False
    with file.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) != b"\n"


class _Sender:
    """A thread that owns the socket."""

    def __init__(self, server: SyslogServer) -> None:
        self._server, self.lost = server, 0
        self._waiting: queue.Queue[bytes | None] = queue.Queue(QUEUED)
        self._socket: socket.socket | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit-syslog", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        try:
            self._waiting.put_nowait(line)
        except queue.Full:
            self.lost += 1

    def close(self, timeout_s: float) -> None:
        self._closing.set()
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=timeout_s)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (line := self._waiting.get()) is not None:
            while not self._is_sent(line):  # in order: the next one waits
                if self._closing.wait(AGAIN_SECONDS):
                    self.lost += 1
                    with contextlib.suppress(queue.Empty):
                        while True:
                            self.lost += self._waiting.get_nowait() is not None
                    return
        self._end()
        self._drop()

    def _is_sent(self, line: bytes) -> bool:
        # A connection that the server has closed meanwhile is no reason to wait.
        for _ in range(1 if self._socket is None else 2):
            try:
                self._send(line)
            except (OSError, ValueError):
                self._drop()
            else:
                return True
        return False

    def _end(self) -> None:
        """Say goodbye and wait for the answer: a plain close with TLS session tickets unread
        resets the connection, and the peer then loses what it has not read yet."""
        if isinstance(self._socket, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):
                self._socket.unwrap()

    def _send(self, line: bytes) -> None:
        if self._socket is None:
            self._socket = self._connect()
        # RFC 5425 counts the bytes; a datagram counts itself.
        self._socket.sendall(b"%d %b" % (len(line), line) if self._server.tls else line)

    def _connect(self) -> socket.socket:
        server = self._server
        if not server.tls:
            family, kind, proto, _, address = socket.getaddrinfo(
                server.host, server.port, type=socket.SOCK_DGRAM
            )[0]
            connected = socket.socket(family, kind, proto)
            connected.connect(address)
            return connected
        context = ssl.create_default_context(cafile=server.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        raw = socket.create_connection((server.host, server.port), CONNECT_SECONDS)
        return context.wrap_socket(raw, server_hostname=server.host)

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def open_trail(settings: Settings) -> AuditTrail:
    """The trail that a site has configured; one that writes nothing where none is.

    Raises
    ------
    AuditFileUnusable
        The file can't be opened.
    """
    server = None
    if settings.audit_syslog:
        server = SyslogServer(*parse_syslog(settings.audit_syslog), settings.audit_syslog_ca)
    backlog = Backlog(settings.spool / BACKLOG_FILE) if settings.audit_file else None
    return AuditTrail(settings.ae_title, file=settings.audit_file, server=server, backlog=backlog)
