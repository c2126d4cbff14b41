"""The messages of one association: a C-STORE goes to the spool as it comes, others to pynetdicom.

pynetdicom gathers a message of any size in memory, queues any number of them and hands each
to another thread. Here a command set is bounded, and an instance is written,
made durable and answered by the thread that reads it.
"""

from __future__ import annotations

import logging
import sqlite3
import struct
import threading
import time
from functools import lru_cache
from typing import Any

from pydicom.uid import UID
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dsutils import create_file_meta, encode_file_meta
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from app.intake import statuses
from app.intake.commands import C_STORE_RQ, Command, as_pdu, read_command, store_response
from app.intake.journal import JournalWriter, Received
from app.intake.peek import UID as UID_FORM
from app.intake.spool import Draft, NoRoomError, Spool

MAX_LOOSE_BYTES = 1 << 20  # command sets, and data sets of other messages than C-STORE
TICK_SECONDS = 0.1  # timers are looked at this often where nothing happens
INSTANCE_UID = b"\x02\0\x03\0UI"  # (0002,0003) in explicit VR little endian, before its length
GROUP_LENGTH_BYTES = 12  # of (0002,0000)
COMMAND, LAST = 0x01, 0x02  # message control header, PS3.8 E.2

log = logging.getLogger("radloop.intake")


class Incoming:
    """One instance on its way in.

    Parameters
    ----------
    command : Command
        The C-STORE-RQ.
    context_id : int
        On which presentation context.
    draft : Draft or None
        Where its bytes go; None where it is refused already.
    status : int
        The refusal; what still comes is dropped.
    max_bytes : int
        Of the data set.
    """

    def __init__(
        self, command: Command, context_id: int, draft: Draft | None, status: int, max_bytes: int
    ) -> None:
        self.command, self.context_id = command, context_id
        self.draft, self.status = draft, status
        self._max_bytes, self._received = max_bytes, 0

    @property
    def is_empty(self) -> bool:
        """Whether not a byte has come."""
        return self._received == 0

    def write(self, data: memoryview) -> None:
        """Take a fragment."""
        self._received += len(data)
        if self.draft is None:
            return
        try:
            if self._received > self._max_bytes:
                self.refuse(statuses.TOO_LARGE)
            else:
                self.draft.write(data)
        except NoRoomError:
            self.refuse(statuses.OUT_OF_RESOURCES)
        except OSError as error:
            log.error("event=trouble why=file errno=%s", error.errno)
            self.refuse(statuses.FILE_FAILED)

    def refuse(self, status: int) -> None:
        """Drop what has come and what will."""
        if self.draft is not None:
            self.draft.discard()
        self.draft, self.status = None, status


class Reception(DIMSEServiceProvider):
    """Takes the fragments of one association's messages.

    Attributes
    ----------
    stirred : threading.Event
        Set when the association's thread has something to look at.
    """

    def __init__(
        self,
        association: Association,
        spool: Spool,
        journal: JournalWriter,
        max_instance_bytes: int,
    ) -> None:
        super().__init__(association)
        self._spool, self._journal, self._max_bytes = spool, journal, max_instance_bytes
        self._command = bytearray()
        self._loose = 0  # bytes of the message under way that are held in memory
        self._incoming: Incoming | None = None
        self._refusals: set[int] = set()  # statuses that the log has from this association
        self._others_data = False  # a data set follows that is none of a C-STORE
        self.stirred = threading.Event()

    def get_msg(self, block: bool = False) -> Any:
        """The next message, or (None, None) after a while without, or when stirred by another."""
        if self.msg_queue.empty():
            self.stirred.wait(TICK_SECONDS)
        self.stirred.clear()  # before the look: what is put after it sets it again
        return super().get_msg(block)

    def take(self, context_id: int, control: int, fragment: memoryview) -> bytes | None:
        """Take one presentation data value; the answer as a PDU once an instance is safe.

        Parameters
        ----------
        context_id, control : int
            Presentation context and message control header (PS3.8 9.3.5.1, E.2).
        fragment : memoryview
            Not kept beyond the call.

        Raises
        ------
        ValueError
            Not a message: the association is to be aborted.
        """
        if context_id not in self.assoc._accepted_cx:
            raise ValueError("a context that was not accepted")
        if control & COMMAND:
            return self._take_command(context_id, control, fragment)
        if self._incoming is None:
            self._take_others_data(context_id, control, fragment)
            return None
        if context_id != self._incoming.context_id:
            raise ValueError("a data set on another context than its command")
        self._incoming.write(fragment)
        return self._answer() if control & LAST else None

    def abandon(self) -> None:
        """The connection has ended: drop what was under way."""
        if self._incoming is not None:
            self._incoming.refuse(statuses.EMPTY)

    def _take_command(self, context_id: int, control: int, fragment: memoryview) -> bytes | None:
        if self._incoming is not None or self._others_data:
            raise ValueError("two commands in one message")
        self._hold(fragment)
        self._command += fragment
        if not control & LAST:
            return None
        encoded, self._command, self._loose = self._command, bytearray(), 0
        command = read_command(encoded)
        if command.field != C_STORE_RQ:
            self._others_data = command.has_data_set
            self._pass_on(context_id, control, encoded)
            return None
        self._incoming = self._begin(command, context_id)
        return None if command.has_data_set else self._answer()

    def _take_others_data(self, context_id: int, control: int, fragment: memoryview) -> None:
        if not self._others_data:
            raise ValueError("a data set before its command")
        self._hold(fragment)
        self._pass_on(context_id, control, fragment)
        if control & LAST:
            self._others_data, self._loose = False, 0

    def _hold(self, fragment: memoryview) -> None:
        self._loose += len(fragment)
        if self._loose > MAX_LOOSE_BYTES:
            raise ValueError("a command set or data set without end")

    def _pass_on(self, context_id: int, control: int, data: memoryview | bytearray) -> None:
        part = P_DATA()
        part.presentation_data_value_list = [[context_id, bytes([control]) + data]]  # type: ignore[list-item]
        self.receive_primitive(part)

    def _begin(self, command: Command, context_id: int) -> Incoming:
        context = self.assoc._accepted_cx[context_id]
        status, draft = statuses.SUCCESS, None
        if context.abstract_syntax == Verification:
            status = statuses.NO_SUCH_CLASS
        elif not UID_FORM.fullmatch(command.sop_instance_uid) or not UID_FORM.fullmatch(
            command.sop_class_uid
        ):
            status = statuses.BAD_UID
        else:
            transfer_syntax = str(context.transfer_syntax[0])
            head = file_head(command.sop_class_uid, command.sop_instance_uid, transfer_syntax)
            draft = Draft(self._spool, command.sop_instance_uid, head, transfer_syntax)
        return Incoming(command, context_id, draft, status, self._max_bytes)

    def _answer(self) -> bytes:
        assert self._incoming is not None
        incoming, self._incoming = self._incoming, None
        status = self._keep(incoming)
        if status != statuses.SUCCESS and status not in self._refusals:
            self._refusals.add(status)  # once: a peer could fill the disk with them
            log.error("event=refused status=%#06x", status)
        return as_pdu(incoming.context_id, store_response(incoming.command, status))

    def _keep(self, incoming: Incoming) -> int:
        """Make what has come durable; the status to answer."""
        if incoming.is_empty:
            incoming.refuse(statuses.EMPTY)
        if incoming.draft is None:
            return incoming.status
        command, context = incoming.command, self.assoc._accepted_cx[incoming.context_id]
        asked_for: Any = self.assoc.requestor.primitive  # the A-ASSOCIATE request, accepted by now
        try:
            kept = incoming.draft.keep()
        except NoRoomError:
            return statuses.OUT_OF_RESOURCES
        except OSError as error:
            log.error("event=trouble why=file errno=%s", error.errno)
            return statuses.FILE_FAILED
        try:
            self._journal.record(
                Received(
                    sop_instance_uid=command.sop_instance_uid,
                    digest=kept.digest,
                    sop_class_uid=command.sop_class_uid,
                    transfer_syntax_uid=str(context.transfer_syntax[0]),
                    name=kept.name,
                    size=kept.size,
                    calling_aet=self.assoc.requestor.ae_title,
                    received_at=time.time(),
                    called_aet=str(asked_for.called_ae_title),
                )
            )
        except (sqlite3.Error, TimeoutError) as error:
            log.error("event=trouble why=journal kind=%s", type(error).__name__)
            return statuses.JOURNAL_FAILED
        return statuses.SUCCESS


def file_head(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Preamble, prefix and file meta (PS3.10 7.1), as pynetdicom would write them."""
    before, after = _meta_around(sop_class_uid, transfer_syntax_uid)
    value = sop_instance_uid.encode("ascii")
    value += b"\0" * (len(value) % 2)
    meta = before + INSTANCE_UID + struct.pack("<H", len(value)) + value + after
    length = b"\x02\0\0\0UL\x04\0" + struct.pack("<L", len(meta))
    return b"\0" * 128 + b"DICM" + length + meta


@lru_cache(256)
def _meta_around(sop_class_uid: str, transfer_syntax_uid: str) -> tuple[bytes, bytes]:
    """File meta before and after (0002,0003): all that the images of a series share.

    Encoding it anew took a sixth of an instance's time.
    """
    meta = create_file_meta(
        sop_class_uid=UID(sop_class_uid),
        sop_instance_uid=UID("1.2"),
        transfer_syntax=UID(transfer_syntax_uid),
    )
    encoded = encode_file_meta(meta)[GROUP_LENGTH_BYTES:]
    before, after = encoded.split(INSTANCE_UID + b"\x04\x001.2\0")
    return before, after
