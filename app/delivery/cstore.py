"""An archive that takes C-STORE, in plain or over TLS.

It can't be read back here. Without storage commitment its status 0x0000 is all there
is, and that says "received"; with it, delivered means that the archive has said that
it keeps every object. It deletes nothing: a rejection (IOCM) is stored instead.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Sequence
from pathlib import Path

from pydicom import Dataset, dcmread
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)

from app.delivery.answers import keep_answers
from app.delivery.commitment import Answer, Commitments
from app.delivery.destination import DestinationRefused, DestinationUnreachable, NotYet
from app.delivery.reach import why_not
from app.delivery.rejections import Rejections
from app.delivery.tls import TlsFiles
from app.intake.tls import TlsFileError

SECONDS = 60.0  # our own listener may wait 30 s for its disk before it says no
SELF_TEST_SECONDS = 5.0
COMMIT_SECONDS = 60.0  # then the caller waits, and asks us again
SAME_ASSOCIATION_SECONDS = 5.0  # some archives answer only on the association that asked
IMPLICIT_VR = "1.2.840.10008.1.2"
REQUEST_COMMITMENT = 1  # Action Type ID (PS3.4 Table J.3-1)
REJECTED_TRANSIENT = 2  # PS3.8 9.3.4: it may do later
_CALLING_UNKNOWN, _CALLED_UNKNOWN = (1, 3), (1, 7)  # source and reason (PS3.8 Table 9-21)
_CONTEXT_HINT = "It does not take this SOP class or transfer syntax: allow it there."
_COMMITMENT_HINT = "It offers no storage commitment: set cstore_commitment to false."
_LATER = frozenset({0xA700, 0xA701})  # out of resources (PS3.4 B.2.3)
_COMMITMENT_LATER = frozenset({0x0110, 0x0213})  # processing failure, resource limitation


class CStoreDestination:
    """A storage SCP.

    Parameters
    ----------
    aet, host, port : str, str, int
        Its AE title and address.
    calling_aet : str
        Ours.
    rejections : Rejections or None
        Writes what `withdraw` stores; None where nothing is ever withdrawn.
    tls : TlsFiles or None
        Whether, and with which certificates.
    commitments : Commitments or None
        Asks for storage commitment, where it is wanted.
    key : str
        By which rules name it.
    """

    def __init__(
        self,
        aet: str,
        host: str,
        port: int,
        calling_aet: str = "RADLOOP",
        *,
        rejections: Rejections | None = None,
        tls: TlsFiles | None = None,
        commitments: Commitments | None = None,
        key: str = "cstore",
    ) -> None:
        self._aet, self._host, self._port, self._calling = aet, host, port, calling_aet
        self._rejections, self._tls, self._commitments = rejections, tls, commitments
        self.key = key

    @property
    def name(self) -> str:
        """Kind, AE title and address."""
        return f"C-STORE {self._aet}@{self._host}:{self._port}"

    def deliver(self, files: Sequence[Path]) -> None:
        """Send all files over one association; each must be answered with success.

        With commitment, wait for the archive's word afterwards. A delivery that is waiting
        for it already is not sent again.
        """
        if not files:
            return
        if self._commitments is None:
            self._store(files)
            return
        references = [_reference(file) for file in files]
        delivery = self._commitments.delivery(self.name, references, _digest(files))
        try:
            self._commitments.listen()
            if not self._commitments.is_asked(delivery):
                self._store(files)
                self._ask(self._commitments, delivery, references)
            answer = self._commitments.answer(delivery, COMMIT_SECONDS)
        except TlsFileError as error:
            raise DestinationUnreachable(self.name, f"TLS: {error}") from error
        if answer is None:
            hint = (
                f"Does it know {self._commitments.aet} at this machine, "
                f"port {self._commitments.port}?"
            )
            why = "no answer yet to the request for storage commitment"
            raise NotYet(self.name, why, hint)
        self._commitments.forget(delivery)
        self._judge(answer, {uid for _, uid in references})

    def withdraw(self, files: Sequence[Path], because: str, recorded_at: str) -> None:
        """Store a rejection of them."""
        assert self._rejections is not None
        self.deliver(self._rejections.write(files, because, recorded_at))

    def self_test(self) -> str:
        """C-ECHO, and whether commitment is offered where it is wanted."""
        association = self._associate([(Verification, IMPLICIT_VR)], SELF_TEST_SECONDS)
        try:
            status = association.send_c_echo()
        finally:
            association.release()
        if "Status" not in status:
            raise DestinationUnreachable(self.name, "no answer to C-ECHO")
        said = f"C-ECHO answered {status.Status:#06x}"
        if self._commitments is None:
            return said
        self._associate_for_commitment(self._commitments, SELF_TEST_SECONDS).release()
        return f"{said}, offers storage commitment"

    def _store(self, files: Sequence[Path]) -> None:
        datasets = [dcmread(file) for file in files]
        wanted = {
            (str(dataset.SOPClassUID), str(dataset.file_meta.TransferSyntaxUID))
            for dataset in datasets
        }
        association = self._associate(sorted(wanted), SECONDS)
        try:
            for file, dataset in zip(files, datasets, strict=True):
                self._send(association, file.name, dataset)
        finally:
            association.release()

    def _ask(
        self, commitments: Commitments, delivery: Path, references: Sequence[tuple[str, str]]
    ) -> None:
        association = self._associate_for_commitment(commitments, SECONDS)
        question = commitments.begin(delivery, references)
        try:
            status, _ = association.send_n_action(
                question,
                REQUEST_COMMITMENT,
                StorageCommitmentPushModel,
                StorageCommitmentPushModelInstance,
            )
            code = status.get("Status")
            if code == 0x0000:
                commitments.answer(delivery, SAME_ASSOCIATION_SECONDS)
                return
        except RuntimeError:  # the association has ended
            code = None
        finally:
            association.release()
        commitments.forget(delivery)
        if code is None:
            raise DestinationUnreachable(self.name, "no answer to N-ACTION")
        self._refuse_commitment(code, "the request for storage commitment")

    def _judge(self, answer: Answer, wanted: set[str]) -> None:
        for uid in sorted(wanted - answer.committed):
            self._refuse_commitment(answer.failed.get(uid, 0), f"to commit itself to {uid}")

    def _refuse_commitment(self, code: int, what: str) -> None:
        if code in _COMMITMENT_LATER:
            raise DestinationUnreachable(self.name, f"storage commitment failed: {code:#06x}")
        status = f"failure reason {code:#06x}" if code else "no word about it"
        raise DestinationRefused(self.name, status, what, "Its log says why.")

    def _associate_for_commitment(self, commitments: Commitments, seconds: float) -> Association:
        return self._associate(
            [(StorageCommitmentPushModel, IMPLICIT_VR)], seconds, commitments=commitments
        )

    def _associate(
        self,
        contexts: Sequence[tuple[str, str]],
        seconds: float,
        *,
        commitments: Commitments | None = None,
    ) -> Association:
        """An association; one that asks for commitment where that is given."""
        calling = commitments.aet if commitments else self._calling
        entity = AE(ae_title=calling)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = seconds
        entity.connection_timeout = seconds
        for sop_class, syntax in contexts:
            entity.add_requested_context(sop_class, syntax)
        try:
            context = self._tls.client_context() if self._tls else None
            association = entity.associate(
                self._host,
                self._port,
                ae_title=self._aet,
                tls_args=(context, self._host) if context else None,
                evt_handlers=[commitments.handler] if commitments else [],
            )
        except TlsFileError as error:
            raise DestinationUnreachable(self.name, f"TLS: {error}") from error
        except OSError as error:  # the name has no address
            why = why_not(self._host, self._port) or error.strerror or type(error).__name__
            raise DestinationUnreachable(self.name, why) from error
        if not association.is_established:
            self._explain(association, calling, context, commitments is not None)
        keep_answers(association)
        return association

    def _explain(
        self,
        association: Association,
        calling: str,
        context: ssl.SSLContext | None,
        for_commitment: bool,
    ) -> None:
        """Say why there is no association."""
        if association.is_rejected:
            rejection = association.acceptor.primitive
            assert rejection is not None
            if rejection.result == REJECTED_TRANSIENT:
                raise DestinationUnreachable(self.name, f"it says: {rejection.reason_str}")
            status = f"A-ASSOCIATE-RJ ({rejection.reason_str})"
            hints: dict[tuple[int | None, int | None], str] = {
                _CALLING_UNKNOWN: f"Make the AE title {calling} known there.",
                _CALLED_UNKNOWN: f"{self._aet} is not its AE title: correct deliver_to_cstore.",
            }
            hint = hints.get(
                (rejection.result_source, rejection.diagnostic),
                f"Does it know the AE title {calling}, and is {self._aet} its own?",
            )
            raise DestinationRefused(self.name, status, "the association", hint)
        if association.rejected_contexts:  # it took the association, and then none of our objects
            what, hint = "results", _CONTEXT_HINT
            if for_commitment:
                what, hint = "storage commitment", _COMMITMENT_HINT
            raise DestinationRefused(self.name, "no presentation context", what, hint)
        why = why_not(self._host, self._port, context)
        if why is None:
            why = "it took the connection and said nothing to the association"
            why += "" if context else ": does it expect TLS (cstore_tls_ca)?"
        raise DestinationUnreachable(self.name, why)

    def _send(self, association: Association, what: str, dataset: Dataset) -> None:
        try:
            status = association.send_c_store(dataset)
        except ValueError as error:  # this one has no accepted presentation context
            raise DestinationRefused(
                self.name, "no presentation context", what, _CONTEXT_HINT
            ) from error
        except RuntimeError as error:  # the association has ended
            raise DestinationUnreachable(self.name, "the association ended") from error
        if "Status" not in status:
            raise DestinationUnreachable(self.name, f"no answer for {what}")
        code = int(status.Status)
        if code in _LATER:
            raise DestinationUnreachable(self.name, f"status {code:#06x}: out of resources")
        if code != 0x0000:
            hint = "Its log says why; warnings count as refusals, since they mean changed content."
            raise DestinationRefused(self.name, f"status {code:#06x}", what, hint)


def _reference(file: Path) -> tuple[str, str]:
    header = dcmread(file, specific_tags=["SOPClassUID", "SOPInstanceUID"])
    return str(header.SOPClassUID), str(header.SOPInstanceUID)


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
