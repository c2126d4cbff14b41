"""Storage commitment: an archive's word that it keeps what it took (PS3.4 Annex J).

C-STORE's success says "received". With commitment we ask (N-ACTION), and the archive
answers when it is ready (N-EVENT-REPORT): on the association that asked, while that
is open, or on a new one to the address that it knows for our AE title. So we listen
too. Its answer goes into a folder before it is acknowledged, under a transaction UID
that nobody can guess: whichever of our processes has the port, the one that asked
finds it, now or after a restart. An answer is about UIDs, not about bytes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from socketserver import TCPServer

from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]
from pynetdicom.transport import ThreadedAssociationServer

from app.delivery.tls import TlsFiles
from app.intake.spool import sync_folder

FOLDER = "commitments"
ASK_AGAIN_SECONDS = 600.0  # an answer that has not come by then is asked for anew
POLL_SECONDS = 0.05
PEER_SECONDS = 5.0  # what a silent caller gets before it is dropped
SUCCESS, PROCESSING_FAILURE = 0x0000, 0x0110
_UID = re.compile(r"[0-9.]{1,64}")


@dataclass(frozen=True)
class Answer:
    """What the archive said.

    Attributes
    ----------
    committed : frozenset of str
        SOP Instance UIDs that it keeps.
    failed : dict
        SOP Instance UID → Failure Reason (0008,1197).
    """

    committed: frozenset[str]
    failed: dict[str, int]


class Commitments:
    """Questions and answers of one AE title.

    Parameters
    ----------
    state_dir : Path
        They are kept in a folder below it, shared by all processes.
    aet : str
        The AE title that asks; the archive knows it at this machine and port.
    port : int
        Where its answers come in, on all addresses.
    tls : TlsFiles or None
        Whether, and with which certificates.
    """

    def __init__(self, state_dir: Path, aet: str, port: int, tls: TlsFiles | None = None) -> None:
        self._folder = state_dir / FOLDER
        self.aet, self.port, self._tls = aet, port, tls
        self._server: ThreadedAssociationServer | None = None
        self._lock = threading.Lock()

    def delivery(self, peer: str, references: Sequence[tuple[str, str]], digest: str) -> Path:
        """Where the questions about one delivery are kept; equal arguments, the same place.

        Parameters
        ----------
        peer : str
            The archive.
        references : sequence of (str, str)
            SOP Class and Instance UID of each object.
        digest : str
            Of their bytes: an answer about other bytes is none about these.
        """
        text = json.dumps([peer, sorted(references), digest])
        return self._folder / hashlib.sha256(text.encode()).hexdigest()[:32]

    def is_asked(self, delivery: Path) -> bool:
        """Whether a question is open that is not too old to be answered."""
        newest = max((file.stat().st_mtime for file in delivery.glob("*.asked")), default=0.0)
        return time.time() - newest < ASK_AGAIN_SECONDS

    def begin(self, delivery: Path, references: Sequence[tuple[str, str]]) -> Dataset:
        """Note a new question, durable when this returns.

        Returns
        -------
        Dataset
            Action Information of the N-ACTION (PS3.4 Table J.3-1).
        """
        question = Dataset()
        question.TransactionUID = generate_uid(prefix=None)  # random: whoever knows it was asked
        question.ReferencedSOPSequence = [_item(*reference) for reference in references]
        delivery.mkdir(parents=True, exist_ok=True)
        _write(delivery / f"{question.TransactionUID}.asked", b"")
        return question

    def forget(self, delivery: Path) -> None:
        """Done, one way or the other: the next delivery of the same begins anew."""
        shutil.rmtree(delivery, ignore_errors=True)

    def answer(self, delivery: Path, seconds: float) -> Answer | None:
        """The newest answer to any question about a delivery, waited for."""
        deadline = time.monotonic() + seconds
        while True:
            self.listen()
            told = sorted(delivery.glob("*.told"), key=lambda file: file.stat().st_mtime)
            if told:
                content = json.loads(told[-1].read_bytes())
                return Answer(frozenset(content["committed"]), content["failed"])
            if time.monotonic() >= deadline:
                return None
            time.sleep(POLL_SECONDS)

    def listen(self) -> None:
        """Take answers from now on, unless another process of ours has the port already.

        Raises
        ------
        OSError
            The port can't be had for another reason.
        TlsFileError
            A certificate can't serve.
        """
        with self._lock:
            if self._server is not None:
                return
            entity = AE(ae_title=self.aet)
            entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = PEER_SECONDS
            entity.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
            context = self._tls.server_context() if self._tls else None
            try:
                server = entity.make_server(
                    ("", self.port),
                    ssl_context=context,
                    evt_handlers=[self.handler],
                    server_class=_Server,
                )
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return
                raise
            threading.Thread(target=server.serve_forever, name="commitment", daemon=True).start()
            self._server = server

    def close(self) -> None:
        """Take no more answers."""
        with self._lock:
            if self._server is not None:
                self._server.shutdown()
                self._server = None

    @property
    def handler(self) -> tuple[evt.InterventionEvent, Callable[[Event], tuple[int, None]]]:
        """Takes the archive's answer; for the association that asks, too."""
        return (evt.EVT_N_EVENT_REPORT, self._on_report)

    def _on_report(self, event: Event) -> tuple[int, None]:
        try:
            report = event.event_information
            transaction = str(report.TransactionUID)
            told = {
                "committed": [
                    str(item.ReferencedSOPInstanceUID)
                    for item in report.get("ReferencedSOPSequence") or ()
                ],
                "failed": {
                    str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason") or 0)
                    for item in report.get("FailedSOPSequence") or ()
                },
            }
        except (AttributeError, ValueError, TypeError):
            return PROCESSING_FAILURE, None
        if not _UID.fullmatch(transaction):
            return PROCESSING_FAILURE, None
        for asked in self._folder.glob(f"*/{transaction}.asked"):
            with suppress(OSError):  # then it is not acknowledged, and the archive tries again
                _write(asked.with_suffix(".told"), json.dumps(told).encode())
                return SUCCESS, None
        return PROCESSING_FAILURE, None


class _Server(ThreadedAssociationServer):
    """A caller that never shakes hands holds the others up for a few seconds, not for ever."""

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        assert self.socket is not None
        client, address = self.socket.accept()
        if isinstance(self.ssl_context, ssl.SSLContext):
            client.settimeout(PEER_SECONDS)
            client = self.ssl_context.wrap_socket(client, server_side=True)
            client.settimeout(None)
        return client, address

    def shutdown(self) -> None:
        """Without pynetdicom's bookkeeping, which knows only what `start_server` started."""
        TCPServer.shutdown(self)
        self.server_close()


def _item(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item


def _write(file: Path, content: bytes) -> None:
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}")
    with unfinished.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.replace(file)
    sync_folder(file.parent)
