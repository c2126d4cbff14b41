"""An archive that offers storage commitment, and answers as a test tells it to."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from pydicom import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import (
    CTImageStorage,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)

ANSWERS = Literal["same association", "new association", "never"]


@dataclass
class Committing:
    """What it does, and what it was asked and told."""

    answers: ANSWERS
    report_to: int = 0
    status: int = 0x0000
    failed: dict[str, int] = field(default_factory=dict)
    forgotten: set[str] = field(default_factory=set)
    tls: ssl.SSLContext | None = None
    aet: str = "KEEPER"
    port: int = 0
    stored: list[str] = field(default_factory=list)
    questions: list[Dataset] = field(default_factory=list)
    callers: list[str] = field(default_factory=list)
    acknowledged: list[int] = field(default_factory=list)

    def on_store(self, event: Event) -> int:
        self.stored.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    def on_action(self, event: Event) -> tuple[int, None]:
        question = event.action_information
        self.questions.append(question)
        self.callers.append(event.assoc.requestor.ae_title)
        if self.status == 0 and self.answers != "never":
            threading.Thread(target=self.report, args=(event, question), daemon=True).start()
        return self.status, None

    def report(self, event: Event, question: Dataset) -> None:
        time.sleep(0.1)  # after the answer to N-ACTION
        if self.answers == "same association":
            self.tell(event.assoc, question)
            return
        entity = AE(ae_title=self.aet)
        entity.add_requested_context(StorageCommitmentPushModel)
        caller = entity.associate(
            "127.0.0.1",
            self.report_to,
            ae_title=event.assoc.requestor.ae_title,
            ext_neg=[build_role(StorageCommitmentPushModel, scp_role=True)],
            tls_args=(self.tls, "127.0.0.1") if self.tls else None,
        )
        assert caller.is_established
        self.tell(caller, question)
        caller.release()

    def tell(self, association: object, question: Dataset) -> None:
        """N-EVENT-REPORT (PS3.4 J.3.3)."""
        report = Dataset()
        report.TransactionUID = question.TransactionUID
        kept, lost = [], []
        for item in question.ReferencedSOPSequence:
            uid = str(item.ReferencedSOPInstanceUID)
            if uid in self.failed:
                item.FailureReason = self.failed[uid]
                lost.append(item)
            elif uid not in self.forgotten:
                kept.append(item)
        report.ReferencedSOPSequence = kept
        if lost:
            report.FailedSOPSequence = lost
        status, _ = association.send_n_event_report(  # type: ignore[attr-defined]
            report,
            2 if lost else 1,
            StorageCommitmentPushModel,
            StorageCommitmentPushModelInstance,
        )
        self.acknowledged.append(int(status.Status))


@contextmanager
def running_committing(
    answers: ANSWERS, *, server_tls: ssl.SSLContext | None = None, **changes: object
) -> Iterator[Committing]:
    """While the block runs."""
    archive = Committing(answers, **changes)  # type: ignore[arg-type]
    entity = AE(ae_title=archive.aet)
    for sop_class in (Verification, CTImageStorage, StorageCommitmentPushModel):
        entity.add_supported_context(sop_class)
    handlers = [(evt.EVT_C_STORE, archive.on_store), (evt.EVT_N_ACTION, archive.on_action)]
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=server_tls
    )
    archive.port = server.server_address[1]
    try:
        yield archive
    finally:
        server.shutdown()
