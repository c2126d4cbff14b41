"""What a peer can make this process hold: bounded, whatever it sends or does not send.

pynetdicom reads a PDU of any announced length, gathers a message of any size and
queues any number of them. Here a PDU, a command set and what waits are bounded; a
data set goes to the spool as it comes; and each connection has a thread of its
own from accept to close, so that a silent peer, in the TLS handshake too, delays
nobody. And its two threads wait to be woken, where pynetdicom's look a thousand
times a second each. Written against
pynetdicom 3.0.4, which is pinned: some of what is overridden is not in its
documentation.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import queue
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from socketserver import TCPServer
from typing import Any

from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dsutils import create_file_meta, encode_file_meta
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from app.intake import statuses
from app.intake.peek import UID as UID_FORM
from app.intake.slots import Slots
from app.intake.spool import Draft, NoRoomError, Spool

PDU_SECONDS = 30.0  # from the first byte of a PDU to its last
FIRST_PDU_SECONDS = 5.0  # the same while the association is not accepted
TLS_SECONDS = 5.0  # for the whole handshake
# An A-ASSOCIATE-RQ is not bound by max_pdu, and one with all contexts has 300 kB.
MIN_PDU_LIMIT = 1 << 20
MAX_LOOSE_BYTES = 1 << 20  # command sets, and data sets of other messages than C-STORE
SPARE_CONNECTIONS = 64  # beyond the caps: told so politely; beyond these, closed
TICK_SECONDS = 0.1  # timers are looked at this often where nothing happens
YIELD_SECONDS = 0.003  # a lead for a listener that has less to do

CONNECTION_CLOSED = "Evt17"
INVALID_PDU = "Evt19"  # PS3.8 table 9-10; the state machine answers with A-ABORT
LOCAL_LIMIT_EXCEEDED = (0x02, 0x03, 0x02)  # transient, by the presentation service (PS3.8 9.3.4)

log = logging.getLogger("radloop.intake")


class Incoming:
    """A data set as it comes; looks to pynetdicom like the temporary file of its chunked mode.

    Attributes
    ----------
    draft : Draft or None
        What has come; None once it is refused.
    status : int or None
        The refusal, as soon as it is known: what still comes is dropped.
    """

    name = ""  # pynetdicom unlinks this, best effort

    def __init__(self, draft: Draft | None, max_bytes: int) -> None:
        self._max_bytes, self._received = max_bytes, 0
        self.draft = draft
        self.status = None if draft else statuses.BAD_UID

    @property
    def file(self) -> Incoming:
        """Where pynetdicom looks for `flush`."""
        return self

    @property
    def is_empty(self) -> bool:
        """Whether not a byte has come."""
        return self._received == 0

    def flush(self) -> None:
        """The draft knows when."""

    def write(self, data: bytes) -> None:
        """Take a fragment."""
        self._received += len(data)
        if self.draft is None:
            return
        try:
            if self._received > self._max_bytes:
                self._refuse(statuses.TOO_LARGE)
            else:
                self.draft.write(data)
        except NoRoomError:
            self._refuse(statuses.OUT_OF_RESOURCES)
        except OSError:
            self._refuse(statuses.FILE_FAILED)

    def close(self) -> None:
        """Nothing temporary is left; what was kept stays."""
        if self.draft is not None:
            self.draft.discard()

    def _refuse(self, status: int) -> None:
        self.close()
        self.draft, self.status = None, status


class WakingQueue(queue.Queue[Any]):
    """Tells who waits for it that something was put, or was taken."""

    def __init__(
        self, on_put: Callable[[], None], on_get: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__()
        self._on_put, self._on_get = on_put, on_get

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """As in `queue.Queue`, then tell."""
        super().put(item, block, timeout)
        self._on_put()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """As in `queue.Queue`, then tell."""
        item = super().get(block, timeout)
        self._on_get()
        return item


class Reception(DIMSEServiceProvider):
    """Gathers messages; the data set of a C-STORE goes to the spool meanwhile.

    Attributes
    ----------
    stirred : threading.Event
        Set when the association's thread has something to look at.
    """

    def __init__(self, association: Association, spool: Spool, max_instance_bytes: int) -> None:
        super().__init__(association)
        self._spool, self._max_bytes = spool, max_instance_bytes
        self._loose = 0
        self._has_command = False
        self._incoming: Incoming | None = None
        self.stirred = threading.Event()

    def get_msg(self, block: bool = False) -> Any:
        """The next message, or (None, None) after a while without, or when stirred by another."""
        if self.msg_queue.empty():
            self.stirred.wait(TICK_SECONDS)
        self.stirred.clear()  # before the look: what is put after it sets it again
        return super().get_msg(block)

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take one P-DATA; a message that is none ends the association."""
        try:
            for context_id, data in primitive.presentation_data_value_list:
                self._take(context_id, data)
        except Exception as error:  # noqa: BLE001  # a peer's bytes break parsers
            log.warning("event=aborted why=message kind=%s", type(error).__name__)
            self.dul.event_queue.put(INVALID_PDU)

    def abandon(self) -> None:
        """The connection has ended: drop what was under way or not yet looked at."""
        if self._incoming is not None:
            self._incoming.close()
        while not self.msg_queue.empty():
            _, message = self.msg_queue.get_nowait()
            if (incoming := getattr(message, "_dataset_file", None)) is not None:
                incoming.close()

    def _take(self, context_id: int, data: bytes) -> None:
        is_command, is_last = bool(data[0] & 1), bool(data[0] & 2)  # PS3.8 E.2
        if is_command is self._has_command:
            raise ValueError("a data set before its command, or two commands in one message")
        if not is_command and isinstance(self.message, C_STORE_RQ):
            if self._incoming is None:
                self._incoming = self._begin(self.message, context_id)
                self.message._data_set_file = self._incoming  # type: ignore[assignment]
        else:
            self._loose += len(data)
            if self._loose > MAX_LOOSE_BYTES:
                raise ValueError("a command set or data set without end")
        if is_command and is_last:
            self._has_command = True
        part = P_DATA()
        part.presentation_data_value_list = [[context_id, data]]  # type: ignore[list-item]
        super().receive_primitive(part)
        if self.message is None:  # complete, and on its way to the handler
            self._has_command, self._loose, self._incoming = False, 0, None

    def _begin(self, message: C_STORE_RQ, context_id: int) -> Incoming:
        context = self.assoc._accepted_cx[context_id]
        transfer_syntax = str(context.transfer_syntax[0])
        command: Any = message.command_set
        sop_class_uid = str(command.get("AffectedSOPClassUID", ""))
        sop_instance_uid = str(command.get("AffectedSOPInstanceUID", ""))
        if not UID_FORM.fullmatch(sop_instance_uid) or not UID_FORM.fullmatch(sop_class_uid):
            return Incoming(None, self._max_bytes)
        meta = create_file_meta(
            sop_class_uid=UID(sop_class_uid),
            sop_instance_uid=UID(sop_instance_uid),
            transfer_syntax=UID(transfer_syntax),
        )
        head = b"\0" * 128 + b"DICM" + encode_file_meta(meta)
        return Incoming(
            Draft(self._spool, sop_instance_uid, head, transfer_syntax), self._max_bytes
        )


class BoundedSocket(AssociationSocket):
    """Reads PDUs of bounded size in bounded time, and not faster than they are dealt with."""

    limit = MIN_PDU_LIMIT

    def __init__(self, association: Association, client_socket: socket.socket) -> None:
        super().__init__(association, client_socket=client_socket)
        self._woken = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def wake(self) -> None:
        """From another thread: there is something to send, or room to read on."""
        os.eventfd_write(self._woken, 1)

    def forget_wakes(self) -> None:
        """Once both threads have ended."""
        os.close(self._woken)

    @property
    def ready(self) -> bool:
        """Whether to read on. Here pynetdicom's thread waits, for the peer or for `wake`.

        Not while a complete message waits to be dealt with: TCP then slows the peer.
        """
        if self.socket is None or not self._is_connected or not self.event_queue.empty():
            return False
        if self.socket.fileno() < 0:  # closed by the association's thread
            self.event_queue.put(CONNECTION_CLOSED)
            return False
        poller = select.poll()
        poller.register(self._woken, select.POLLIN)
        if self.assoc.dimse.msg_queue.empty():
            if isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
                return True
            poller.register(self.socket, select.POLLIN)
        descriptors = {descriptor for descriptor, _ in poller.poll(TICK_SECONDS * 1000)}
        if self._woken in descriptors:
            descriptors.remove(self._woken)
            os.eventfd_read(self._woken)
            # Else the loop would sleep before it looks there.
            if self.assoc.dul._process_recv_primitive():
                return False
        return bool(descriptors)

    def recv(self, nr_bytes: int) -> bytearray:
        """Read that many bytes, or fewer where the connection ends.

        Raises
        ------
        OSError
            Too many for a PDU, too slow, or broken; pynetdicom ends the association.
        """
        if nr_bytes > self.limit:
            log.warning("event=aborted why=pdu bytes=%d limit=%d", nr_bytes, self.limit)
            self.event_queue.put(INVALID_PDU)
            raise OSError("PDU beyond the limit")
        assert self.socket is not None
        deadline = time.monotonic() + (self.socket.gettimeout() or PDU_SECONDS)
        buffer = bytearray(nr_bytes)
        view, at = memoryview(buffer), 0
        while at < nr_bytes:
            count = self.socket.recv_into(view[at:])
            if not count:
                break
            at += count
            if at < nr_bytes and time.monotonic() > deadline:
                raise TimeoutError("a PDU took too long")
        view.release()
        del buffer[at:]
        return buffer


class Connection(RequestHandler):
    """One peer, from accept to close, in a thread of its own."""

    server: ListenerServer

    def handle(self) -> None:
        """Admit or reject, handshake, associate, and leave nothing behind."""
        slot = self.server.slots.take(self.client_address[0])
        admitted: tuple[Association, Reception, BoundedSocket] | None = None
        try:
            if self.server.tls is not None:
                self.request = self._handshake(self.server.tls)
            admitted = self._admit()
            association = admitted[0]
            association.bind(evt.EVT_ACCEPTED, _trust_more)
            if slot is None:
                association.bind(evt.EVT_REQUESTED, _reject)
            association.start()
            association.join()
        except (OSError, ValueError) as error:
            # `reason` is OpenSSL's name for it: what an administrator searches for.
            why = getattr(error, "reason", None) or type(error).__name__
            log.warning("event=refused why=tls reason=%s address=%s", why, self.client_address[0])
        finally:
            if admitted is not None:
                _end(*admitted)
            self.server.shutdown_request(self.request)
            if slot is not None:
                self.server.slots.release(slot)
            self.server.connections.release()

    def _handshake(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        self.request.settimeout(TLS_SECONDS)  # for all of the handshake, not for each read
        request = context.wrap_socket(self.request, server_side=True, do_handshake_on_connect=False)
        self.request = request  # the socket that was given is detached: this one is to be closed
        request.do_handshake()
        request.settimeout(FIRST_PDU_SECONDS)
        return request

    def _admit(self) -> tuple[Association, Reception, BoundedSocket]:
        association = super()._create_association()
        reception = Reception(association, self.server.spool, self.server.max_instance_bytes)
        association.dul.event_queue.get_nowait()  # "connected": the next line says it again
        bounded = BoundedSocket(association, self.request)
        bounded.limit = max(self.ae.maximum_pdu_size, MIN_PDU_LIMIT)
        reception.msg_queue = WakingQueue(reception.stirred.set, bounded.wake)
        association.dul.to_user_queue = WakingQueue(reception.stirred.set)
        association.dul.to_provider_queue = WakingQueue(bounded.wake)
        association.dul.socket = bounded
        association.dimse = reception
        return association, reception, bounded


def _end(association: Association, reception: Reception, bounded: BoundedSocket) -> None:
    """After an association's thread has ended, however it did: end its other one."""
    association.dul.kill_dul()
    if association.dul.ident is not None:
        bounded.wake()
        association.dul.join(PDU_SECONDS + 1.0)  # it may be in a read
    reception.abandon()
    if not association.dul.is_alive():
        bounded.forget_wakes()


def _trust_more(event: evt.Event) -> None:
    bounded = event.assoc.dul.socket
    if bounded is not None and bounded.socket is not None:
        bounded.socket.settimeout(PDU_SECONDS)


def _reject(event: evt.Event) -> None:
    log.warning("event=refused why=associations address=%s", event.assoc.requestor.address)
    event.assoc.acse.send_reject(*LOCAL_LIMIT_EXCEEDED)
    event.assoc.kill()


class ListenerServer(ThreadedAssociationServer):
    """pynetdicom's server over a socket that listens already and that other processes share.

    The attributes are set by `listener_server`: pynetdicom makes the instance.
    """

    daemon_threads = True
    listening: socket.socket
    tls: ssl.SSLContext | None
    spool: Spool
    max_instance_bytes: int
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    slots: Slots
    connections: threading.Semaphore

    def server_bind(self) -> None:
        """The parent has bound."""
        if self.socket is not None:
            self.socket.close()
        self.socket = self.listening
        self.socket.setblocking(False)  # another process may take the peer that woke us
        self.server_address = self.listening.getsockname()

    def server_activate(self) -> None:
        """The parent listens already."""

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; the handshake is not for this thread."""
        if self.slots.is_busiest:
            time.sleep(YIELD_SECONDS)
        request, address = self.listening.accept()
        request.settimeout(FIRST_PDU_SECONDS)
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return request, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Address allow-list, and an end to how many can wait to be rejected."""
        del request
        address = ipaddress.ip_address(client_address[0])
        if self.networks and not any(address in network for network in self.networks):
            log.warning("event=refused why=address address=%s", address)
            return False
        if not self.connections.acquire(blocking=False):
            log.warning("event=refused why=connections address=%s", address)
            return False
        return True

    def shutdown_request(self, request: Any) -> None:
        """Close a connection; both ways, or a thread that reads from it would go on waiting."""
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)
        self.close_request(request)

    def server_close(self) -> None:
        """Close our copy only: pynetdicom's shutdown(SHUT_RDWR) would deafen all others."""
        self.listening.close()

    def shutdown(self) -> None:
        """Accept nobody any more."""
        TCPServer.shutdown(self)
        self.server_close()
