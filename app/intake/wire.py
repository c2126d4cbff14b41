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
import struct
import threading
import time
from collections.abc import Callable
from socketserver import TCPServer
from typing import Any

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from app.intake.journal import JournalWriter
from app.intake.reception import TICK_SECONDS, Reception
from app.intake.slots import Connections, Slots
from app.intake.spool import Spool
from app.intake.turned_away import Door

PDU_SECONDS = 30.0  # for a PDU's head, and again for what follows it
FIRST_PDU_SECONDS = 5.0  # the same while the association is not accepted
TLS_SECONDS = 5.0  # for the whole handshake
# An A-ASSOCIATE-RQ is not bound by max_pdu, and one with all contexts has 300 kB.
MIN_PDU_LIMIT = 1 << 20
SPARE_CONNECTIONS = 64  # beyond the caps: told so politely; beyond these, closed
SPARE_PER_PEER = 16  # the same for one address
YIELD_SECONDS = 0.003  # a lead for a listener that has less to do

CONNECTION_CLOSED = "Evt17"
INVALID_PDU = "Evt19"  # PS3.8 table 9-10; the state machine answers with A-ABORT
ESTABLISHED = "Sta6"  # PS3.8 table 9-3
P_DATA_TF = 0x04
PDU_HEAD, PDV_HEAD = struct.Struct(">BxL"), struct.Struct(">LBB")  # PS3.8 9.3.1, 9.3.5.1
LOCAL_LIMIT_EXCEEDED = (0x02, 0x03, 0x02)  # transient, by the presentation service (PS3.8 9.3.4)

log = logging.getLogger("radloop.intake")


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


class BoundedSocket(AssociationSocket):
    """Reads PDUs of bounded size in bounded time, and not faster than they are dealt with.

    What pynetdicom's thread reads while an association is established, it deals with here
    (see `Reception`); all other PDUs go to pynetdicom's state machine.
    """

    limit = MIN_PDU_LIMIT
    reception: Reception

    def __init__(self, association: Association, client_socket: socket.socket) -> None:
        super().__init__(association, client_socket=client_socket)
        self._woken: int = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._waking = threading.Lock()
        self._is_over = False
        self._unread = b""  # a PDU's head that was looked at
        self._buffer = bytearray()
        self._flags = 0
        self._for_wake, self._for_both = select.poll(), select.poll()
        for poller in (self._for_wake, self._for_both):
            poller.register(self._woken, select.POLLIN)
        self._for_both.register(client_socket, select.POLLIN)

    def trust_more(self) -> None:
        """The association is accepted: a PDU may take longer, and is read in one call.

        The kernel then gathers it, as far as there is no TLS: each piece that Python fetches makes
        the threads of all associations take turns.
        """
        if isinstance(self.socket, ssl.SSLSocket):
            self.socket.settimeout(PDU_SECONDS)
        elif self.socket is not None:
            limit = struct.pack("ll", int(PDU_SECONDS), 0)  # struct timeval
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                self.socket.setsockopt(socket.SOL_SOCKET, option, limit)
            self.socket.settimeout(None)  # last: without a limit not even for a moment
            self._flags = socket.MSG_WAITALL

    def wake(self) -> None:
        """From another thread: there is something to send, or room to read on."""
        with self._waking:  # a closed descriptor's number may be that of an image by now
            if not self._is_over:
                os.eventfd_write(self._woken, 1)

    def forget_wakes(self) -> None:
        """Once both threads have ended."""
        with self._waking:
            self._is_over = True
            os.close(self._woken)

    @property
    def ready(self) -> bool:
        """Whether there is a PDU for the state machine. Here pynetdicom's thread waits.

        Not while a complete message waits to be dealt with: TCP then slows the peer.
        """
        while self._goes_on:
            if self.socket is None or not self._is_connected:
                return False
            if self.socket.fileno() < 0:  # closed by the association's thread
                self.event_queue.put(CONNECTION_CLOSED)
                return False
            if not self._wait():
                return False
            if self.assoc.dul.state_machine.current_state != ESTABLISHED or not self._take_pdu():
                return self.event_queue.empty()
        return False

    @property
    def _goes_on(self) -> bool:
        """Whether the state machine has nothing to do before more is read."""
        return self.event_queue.empty() and not self.assoc.dul._kill_thread

    def recv(self, nr_bytes: int) -> bytearray:
        """Read that many bytes, or fewer where the connection ends.

        Raises
        ------
        OSError
            Too many for a PDU, too slow, or broken; pynetdicom ends the association.
        """
        if self._unread:  # pynetdicom reads a head first, of as many bytes
            head, self._unread = bytearray(self._unread), b""
            return head
        self._require_bounded(nr_bytes)
        buffer = bytearray(nr_bytes)
        with memoryview(buffer) as view:
            count = self._fill(view)
        del buffer[count:]
        return buffer

    def _wait(self) -> bool:
        """Until there is something to read; False when there is something else to do."""
        poller = self._for_wake
        if self.assoc.dimse.msg_queue.empty():
            if isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
                return True
            poller = self._for_both
        descriptors = {descriptor for descriptor, _ in poller.poll(TICK_SECONDS * 1000)}
        if self._woken in descriptors:
            descriptors.remove(self._woken)
            os.eventfd_read(self._woken)
            # Else the loop would sleep before it looks there.
            if self.assoc.dul._process_recv_primitive():
                return False
        return bool(descriptors)

    def _take_pdu(self) -> bool:
        """Deal with a P-DATA-TF PDU (PS3.8 9.3.5); False where there was none, or trouble."""
        try:
            head = self.recv(PDU_HEAD.size)
            if len(head) < PDU_HEAD.size:
                self.event_queue.put(CONNECTION_CLOSED)
                return False
            kind, size = PDU_HEAD.unpack(head)
            if kind != P_DATA_TF:
                self._unread = bytes(head)
                return False
            self._require_bounded(size)
            if len(self._buffer) < size:
                self._buffer = bytearray(size)
            with memoryview(self._buffer)[:size] as view:
                if self._fill(view) < size:
                    self.event_queue.put(CONNECTION_CLOSED)
                    return False
                self._take_values(view)
        except OSError:
            self.event_queue.put(CONNECTION_CLOSED)
            return False
        except Exception as error:  # noqa: BLE001  # a peer's bytes break parsers
            log.warning("event=aborted why=message kind=%s", type(error).__name__)
            self.event_queue.put(INVALID_PDU)
            return False
        self.assoc.dul._idle_timer.restart()
        return True

    def _take_values(self, view: memoryview) -> None:
        """Deal with each data value, unless the association has ended over one before it."""
        at = 0
        while at < len(view) and self._goes_on and not self.assoc._sent_abort:
            size, context_id, control = PDV_HEAD.unpack_from(view, at)
            end = at + 4 + size  # the length counts what follows it
            if size < 2 or end > len(view):
                raise ValueError("a data value beyond its PDU")
            with view[at + PDV_HEAD.size : end] as fragment:
                answer = self.reception.take(context_id, control, fragment)
            if answer is not None:
                self.send(answer)
            at = end

    def _require_bounded(self, size: int) -> None:
        if size > self.limit:
            log.warning("event=aborted why=pdu bytes=%d limit=%d", size, self.limit)
            self.event_queue.put(INVALID_PDU)
            raise OSError("PDU beyond the limit")

    def _fill(self, view: memoryview) -> int:
        """Read until it is full or the connection ends; how many bytes."""
        assert self.socket is not None
        deadline = time.monotonic() + (self.socket.gettimeout() or PDU_SECONDS)
        at = 0
        while at < len(view):
            count = self.socket.recv_into(view[at:], 0, self._flags)
            if not count:
                break
            at += count
            if at < len(view) and time.monotonic() > deadline:
                raise TimeoutError("a PDU took too long")
        return at


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
            association.bind(evt.EVT_ACCEPTED, lambda _: admitted[2].trust_more())
            if slot is None:
                association.bind(evt.EVT_REQUESTED, _reject, [self.server.door])
            association.start()
            association.join()
        except (OSError, ValueError) as error:
            # `reason` is OpenSSL's name for it: what an administrator searches for.
            why = getattr(error, "reason", None) or type(error).__name__
            log.warning("event=refused why=tls reason=%s address=%s", why, self.client_address[0])
            if admitted is None:
                self.server.door.turned_away("tls", self.client_address[0])
        finally:
            with contextlib.ExitStack() as stack:  # in reverse, each even where another fails
                stack.callback(self.server.connections.release, self.client_address[0])
                if slot is not None:
                    stack.callback(self.server.slots.release, slot)
                stack.callback(lambda: self.server.shutdown_request(self.request))
                if admitted is not None:
                    stack.callback(_end, *admitted)

    def _handshake(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        self.request.settimeout(TLS_SECONDS)  # for all of the handshake, not for each read
        request = context.wrap_socket(self.request, server_side=True, do_handshake_on_connect=False)
        self.request = request  # the socket that was given is detached: this one is to be closed
        request.do_handshake()
        request.settimeout(FIRST_PDU_SECONDS)
        return request

    def _admit(self) -> tuple[Association, Reception, BoundedSocket]:
        association = super()._create_association()
        reception = Reception(
            association, self.server.spool, self.server.journal, self.server.max_instance_bytes
        )
        association.dul.event_queue.get_nowait()  # "connected": the next line says it again
        bounded = BoundedSocket(association, self.request)
        bounded.reception = reception
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


def _reject(event: evt.Event, door: Door) -> None:
    address = str(event.assoc.requestor.address)
    log.warning("event=refused why=associations address=%s", address)
    door.turned_away("associations", address)
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
    journal: JournalWriter
    max_instance_bytes: int
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    slots: Slots
    door: Door
    connections: Connections

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
            self.door.turned_away("address", str(address))
            return False
        if not self.connections.take(client_address[0]):
            log.warning("event=refused why=connections address=%s", address)
            self.door.turned_away("connections", str(address))
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
