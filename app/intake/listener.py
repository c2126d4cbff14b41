"""The C-STORE and C-ECHO SCP, in processes of its own.

The parent binds the port and hands the listening socket over, so that a
listener that dies is replaced without a refused connection: peers wait in the
backlog meanwhile, or are taken by another listener on the same socket. Signals are
the parent's; this process ends when its control pipe says so, or when the parent is
gone. What a peer may do to it is bounded in `wire`, what it is answered is in
`statuses`.
"""

from __future__ import annotations

import gc
import ipaddress
import logging
import os
import resource
import socket
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.intake.journal import JournalWriter
from app.intake.slots import Connections, Slots
from app.intake.spool import Spool
from app.intake.tls import listener_context
from app.intake.turned_away import Door, note_rejected
from app.quiet import silence_libraries

if TYPE_CHECKING:
    from pynetdicom import AE

    from app.intake.wire import ListenerServer

BACKLOG = 128
ACSE_SECONDS = 5.0  # a peer that connects and says nothing holds a slot this long
DIMSE_SECONDS = 30.0
IDLE_SECONDS = 60.0  # an association without traffic is aborted
MAX_DESCRIPTORS = 4096
GRACE_SECONDS = 2.0  # a stop lets running associations end for this long

log = logging.getLogger("radloop.intake")


@dataclass(frozen=True)
class ListenerConfig:
    """What the listeners need of the settings; see `app.settings` for the meanings."""

    spool: Path
    ae_title: str
    min_free_bytes: int
    max_associations: int
    max_pdu: int
    allowed_calling_aets: tuple[str, ...] = ()
    allowed_addresses: tuple[str, ...] = ()
    listeners: int = 1
    max_associations_per_peer: int = 32
    max_instance_bytes: int = 4 << 30
    tls_certificate: Path | None = None
    tls_private_key: Path | None = None
    tls_ca: Path | None = None


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


def _server_class(
    config: ListenerConfig,
    listening: socket.socket,
    spool: Spool,
    journal: JournalWriter,
    slots: Slots,
    door: Door,
) -> type[ListenerServer]:
    """`wire.ListenerServer` with what it needs; pynetdicom makes the instance."""
    from app.intake import wire

    context = listener_context(config.tls_certificate, config.tls_private_key, config.tls_ca)
    allowed = tuple(ipaddress.ip_network(network) for network in config.allowed_addresses)
    most = config.max_associations + wire.SPARE_CONNECTIONS
    most_per_peer = config.max_associations_per_peer + wire.SPARE_PER_PEER

    class Server(wire.ListenerServer):
        tls = context
        max_instance_bytes = config.max_instance_bytes
        networks = allowed
        connections = Connections(most, most_per_peer)

    Server.listening, Server.slots, Server.door = listening, slots, door
    Server.spool, Server.journal = spool, journal
    return Server


def _application_entity(config: ListenerConfig) -> AE:
    from pynetdicom import AE, _config
    from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

    _config.UNRESTRICTED_STORAGE_SERVICE = True  # every storage class, private ones too
    _config.LOG_HANDLER_LEVEL = "none"  # 8 % of the time went into formatting log lines
    entity = AE(ae_title=config.ae_title)
    entity.add_supported_context(Verification)
    entity.maximum_associations = 1 << 16  # `Slots` counts
    entity.maximum_pdu_size = config.max_pdu
    entity.acse_timeout = ACSE_SECONDS
    entity.dimse_timeout = DIMSE_SECONDS
    entity.network_timeout = IDLE_SECONDS
    entity.require_calling_aet = list(config.allowed_calling_aets)
    return entity


def run_listener(
    config: ListenerConfig, listening: socket.socket, table: Any, row: int, control: Connection
) -> None:
    """Main function of a listener process: serve until told to stop.

    Parameters
    ----------
    config : ListenerConfig
        Checked settings.
    listening : socket.socket
        From `bind`; other listeners may hold it too.
    table : ctypes array
        From `slots.shared_table`.
    row : int
        Which of the listeners this is, from 0; no two that live have the same.
    control : Connection
        Sends ``"ready"`` once; any message from the other end, or its end, stops.
    """
    from pynetdicom import evt

    from app.intake import negotiation, wire

    logging.basicConfig(format="%(asctime)s %(name)s %(message)s", level=logging.WARNING)
    silence_libraries()
    # A connection takes three descriptors: socket, wake-up, temporary file.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, MAX_DESCRIPTORS), most))
    spool = Spool(config.spool, config.min_free_bytes, owner=str(row))
    spool.sweep_own()
    journal = JournalWriter(spool.journal_file)
    slots = Slots(table, row, config.max_associations, config.max_associations_per_peer)
    door = Door(config.spool)
    negotiation.remember_items()
    entity = _application_entity(config)
    server = entity.make_server(
        ("", 0),
        evt_handlers=[
            (evt.EVT_REQUESTED, negotiation.choose_contexts),
            (evt.EVT_REJECTED, note_rejected, [door]),
        ],
        server_class=_server_class(config, listening, spool, journal, slots, door),
        request_handler=wire.Connection,
    )
    gc.freeze()  # pynetdicom collects at every 60th turn of its loop: spare it what was imported
    accepting = threading.Thread(target=server.serve_forever, name="accept", daemon=True)
    accepting.start()
    try:
        control.send("ready")
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
    door.close()
    journal.close()
    os._exit(0)  # peers that never said anything have threads that would be waited for
