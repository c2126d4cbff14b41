"""An archive that takes C-STORE. It can't be read back here: its status is all there is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydicom import dcmread
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from app.delivery.destination import DestinationRefused, DestinationUnreachable

SECONDS = 60.0  # our own listener may wait 30 s for its disk before it says no
SELF_TEST_SECONDS = 5.0
REJECTED_TRANSIENT = 2  # PS3.8 9.3.4: it may do later
_CONTEXT_HINT = "It does not take this SOP class or transfer syntax: allow it there."
_LATER = frozenset({0xA700, 0xA701})  # out of resources (PS3.4 B.2.3)


class CStoreDestination:
    """A storage SCP.

    Parameters
    ----------
    aet, host, port : str, str, int
        Its AE title and address.
    calling_aet : str
        Ours.
    """

    def __init__(self, aet: str, host: str, port: int, calling_aet: str = "RADLOOP") -> None:
        self._aet, self._host, self._port, self._calling = aet, host, port, calling_aet

    @property
    def name(self) -> str:
        """Kind, AE title and address."""
        return f"C-STORE {self._aet}@{self._host}:{self._port}"

    def deliver(self, files: Sequence[Path]) -> None:
        """Send all files over one association; each must be answered with success."""
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

    def self_test(self) -> str:
        """C-ECHO."""
        association = self._associate([(Verification, "1.2.840.10008.1.2")], SELF_TEST_SECONDS)
        try:
            status = association.send_c_echo()
        finally:
            association.release()
        if "Status" not in status:
            raise DestinationUnreachable(self.name, "no answer to C-ECHO")
        return f"C-ECHO answered {status.Status:#06x}"

    def _associate(self, contexts: Sequence[tuple[str, str]], seconds: float) -> Association:
        entity = AE(ae_title=self._calling)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = seconds
        entity.connection_timeout = seconds
        for sop_class, syntax in contexts:
            entity.add_requested_context(sop_class, syntax)
        association = entity.associate(self._host, self._port, ae_title=self._aet)
        if association.is_established:
            return association
        rejection = association.acceptor.primitive
        if association.is_rejected and getattr(rejection, "result", None) != REJECTED_TRANSIENT:
            hint = f"Does it know the AE title {self._calling}, and is {self._aet} its own?"
            raise DestinationRefused(self.name, "A-ASSOCIATE-RJ", "the association", hint)
        if association.rejected_contexts:  # it took the association, and then none of our objects
            raise DestinationRefused(self.name, "no presentation context", "results", _CONTEXT_HINT)
        raise DestinationUnreachable(self.name, "no association")

    def _send(self, association: Association, what: str, dataset: object) -> None:
        try:
            status = association.send_c_store(dataset)  # type: ignore[arg-type]
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
