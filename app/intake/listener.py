"""The C-STORE and C-ECHO SCP, in its own process.

The parent binds the port and hands the listening socket over, so that a
listener that dies is replaced without a refused connection: peers wait in the
backlog meanwhile. Signals are the parent's; this process ends when its control
pipe says so, or when the parent is gone.

Statuses (PS3.4 B.2.3): 0x0000 only for an instance that is durable and in the
journal; 0xA700 disk full or reserve reached; 0xC001 an Affected SOP Instance
UID that is none; 0xC002 the file, 0xC003 the journal can't be written.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any

from app.intake.journal import JournalWriter, Received
from app.intake.peek import UID
from app.intake.spool import NoRoomError, Spool
from app.quiet import silence_libraries

if TYPE_CHECKING:
    from pynetdicom import AE
    from pynetdicom.events import Event
    from pynetdicom.transport import ThreadedAssociationServer

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
BAD_UID = 0xC001
FILE_FAILED = 0xC002
JOURNAL_FAILED = 0xC003

BACKLOG = 64
ACSE_SECONDS = 5.0  # a peer that connects and says nothing holds a slot this long
DIMSE_SECONDS = 30.0
IDLE_SECONDS = 60.0  # an association without traffic is aborted
GRACE_SECONDS = 2.0  # a stop lets running associations end for this long

log = logging.getLogger("radloop.intake")


@dataclass(frozen=True)
class ListenerConfig:
    """What the listener needs of the settings; see `app.settings` for the meanings."""

    spool: Path
    ae_title: str
    min_free_bytes: int
    max_associations: int
    max_pdu: int
    allowed_calling_aets: tuple[str, ...] = ()
    allowed_addresses: tuple[str, ...] = ()


def bind(host: str, port: int) -> socket.socket:
    """Listening socket for `run_listener`.

    Raises
    ------
    OSError
        Port taken, or no such address.
    """
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def store(event: Event, spool: Spool, journal: JournalWriter) -> int:
    """Keep one instance; the status to answer."""
    from pynetdicom.dsutils import encode_file_meta

    request: Any = event.request
    sop_instance_uid = str(request.AffectedSOPInstanceUID or "")
    sop_class_uid = str(request.AffectedSOPClassUID or "")
    if not UID.fullmatch(sop_instance_uid) or not UID.fullmatch(sop_class_uid):
        log.warning("event=refused status=%#06x why=uid", BAD_UID)
        return BAD_UID
    head = b"\0" * 128 + b"DICM" + encode_file_meta(event.file_meta)
    try:
        dataset = event.encoded_dataset(include_meta=False)
        kept = spool.keep(sop_instance_uid, head, dataset, str(event.context.transfer_syntax))
        journal.record(
            Received(
                sop_instance_uid=sop_instance_uid,
                digest=kept.digest,
                sop_class_uid=sop_class_uid,
                transfer_syntax_uid=str(event.context.transfer_syntax),
                name=kept.name,
                size=kept.size,
                calling_aet=event.assoc.requestor.ae_title,
                received_at=time.time(),
            )
        )
    except NoRoomError as error:
        log.error("event=refused status=%#06x why=room errno=%s", OUT_OF_RESOURCES, error.errno)
        return OUT_OF_RESOURCES
    except OSError as error:
        log.error("event=refused status=%#06x why=file errno=%s", FILE_FAILED, error.errno)
        return FILE_FAILED
    except (sqlite3.Error, TimeoutError) as error:
        log.error("event=refused status=%#06x why=%s", JOURNAL_FAILED, type(error).__name__)
        return JOURNAL_FAILED
    return SUCCESS


def _server_class(
    listening: socket.socket, allowed_addresses: tuple[str, ...]
) -> type[ThreadedAssociationServer]:
    """pynetdicom's server over a socket that listens already, with an address allow-list."""
    from pynetdicom.transport import ThreadedAssociationServer

    networks = [ipaddress.ip_network(network) for network in allowed_addresses]

    class ListenerServer(ThreadedAssociationServer):
        daemon_threads = True

        def server_bind(self) -> None:
            if self.socket is not None:
                self.socket.close()
            self.socket = listening
            self.server_address = listening.getsockname()

        def server_activate(self) -> None:
            """The parent listens already."""

        def verify_request(self, request: Any, client_address: Any) -> bool:
            del request
            address = ipaddress.ip_address(client_address[0])
            if not networks or any(address in network for network in networks):
                return True
            log.warning("event=refused why=address address=%s", address)
            return False

        def server_close(self) -> None:
            # pynetdicom's shutdown(SHUT_RDWR) would deafen the parent's copy as well.
            listening.close()

        def shutdown(self) -> None:
            TCPServer.shutdown(self)
            self.server_close()

    return ListenerServer


def _application_entity(config: ListenerConfig) -> AE:
    from pynetdicom import AE, _config
    from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

    # Every storage class, private ones too, in whatever transfer syntax the peer names first.
    _config.UNRESTRICTED_STORAGE_SERVICE = True
    _config.LOG_HANDLER_LEVEL = "none"  # 8 % of the time went into formatting log lines
    entity = AE(ae_title=config.ae_title)
    entity.add_supported_context(Verification)
    entity.maximum_associations = config.max_associations
    entity.maximum_pdu_size = config.max_pdu
    entity.acse_timeout = ACSE_SECONDS
    entity.dimse_timeout = DIMSE_SECONDS
    entity.network_timeout = IDLE_SECONDS
    entity.require_calling_aet = list(config.allowed_calling_aets)
    return entity


def run_listener(config: ListenerConfig, listening: socket.socket, control: Connection) -> None:
    """Main function of the listener process: serve until told to stop.

    Parameters
    ----------
    config : ListenerConfig
        Checked settings.
    listening : socket.socket
        From `bind`.
    control : Connection
        Sends ``"ready"`` once; any message from the other end, or its end, stops.
    """
    from pynetdicom import evt

    logging.basicConfig(format="%(asctime)s %(name)s %(message)s", level=logging.WARNING)
    silence_libraries()
    spool = Spool(config.spool, config.min_free_bytes)
    journal = JournalWriter(spool.journal_file)
    handlers: list[tuple[Any, Callable[..., int], list[Any]]] = [
        (evt.EVT_C_STORE, store, [spool, journal]),
    ]
    entity = _application_entity(config)
    server = entity.make_server(
        ("", 0),
        evt_handlers=handlers,  # type: ignore[arg-type]
        server_class=_server_class(listening, config.allowed_addresses),
    )
    accepting = threading.Thread(target=server.serve_forever, name="accept", daemon=True)
    accepting.start()
    control.send("ready")
    try:
        control.recv()
    except (EOFError, OSError):
        os._exit(1)  # the parent is gone: give the port back at once; all that was answered is kept
    server.shutdown()
    deadline = time.monotonic() + GRACE_SECONDS
    while server.active_associations and time.monotonic() < deadline:
        time.sleep(0.05)
    for association in server.active_associations:
        if association.is_established:
            association.abort()
    journal.close()
    os._exit(0)  # peers that never said anything have threads that would be waited for
