"""The second door: what Orthanc's change feed says is new there, taken into the spool.

For studies that reach Orthanc by another way than through us, and for what an
auto-route on its way to us lost. The last sequence number that was dealt with is
kept in the journal, so that a restart goes on where the last run was. Our own
results are passed over: whoever starts the feed says which they are. One instance that
came through both doors is one, however Orthanc encoded it (`same`).

Orthanc's `NewInstance` names an instance that it holds; one that is gone again by
the time we ask is passed over.
"""

from __future__ import annotations

import io
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from app.intake import journal
from app.intake.journal import Received
from app.intake.peek import META_START, UID
from app.intake.spool import Spool

BATCH = 100
IDLE_SECONDS = 2.0
TROUBLE_SECONDS = 5.0
TIMEOUT_SECONDS = 60.0
TRIES = 10  # at one instance that Orthanc lists and then does not give
SOURCE = "orthanc"

log = logging.getLogger("radloop.intake")


class OrthancFeed:
    """Follows one Orthanc in a thread of its own.

    Parameters
    ----------
    spool : Spool
        Where instances go; its journal is prepared.
    url : str
        Orthanc's REST root.
    user, password : str or None
        Its basic authentication.
    is_ours : callable
        Whether a SOP Instance UID is one that radloop wrote.
    max_bytes : int
        Larger instances are left there, bytes.
    """

    def __init__(
        self,
        spool: Spool,
        url: str,
        *,
        user: str | None,
        password: str | None,
        is_ours: Callable[[str], bool],
        max_bytes: int,
    ) -> None:
        self._spool, self._url = spool, url.rstrip("/") + "/"
        self._user, self._password = user, password
        self._is_ours, self._max_bytes = is_ours, max_bytes
        self._failures: dict[str, int] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take in nothing more; what is under way is repeated by the next run."""
        self._end.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                self._follow()
            except Exception as error:  # noqa: BLE001  (Orthanc down, disk full: it is tried again)
                log.warning("event=feed_trouble why=%s", type(error).__name__)
                self._end.wait(TROUBLE_SECONDS)

    def _follow(self) -> None:
        from orthanc_api_client import OrthancApiClient

        client = OrthancApiClient(self._url, user=self._user, pwd=self._password)
        try:
            with closing(journal.connect(self._spool.journal_file)) as connection:
                mark = journal.read_mark(connection, self._url)
                if mark is None:  # the first time: what is there already was not sent to us
                    mark = int(_json(client, "changes?last")["Last"])
                    journal.write_mark(connection, self._url, mark)
                while not self._end.is_set():
                    changes = _json(client, f"changes?since={mark}&limit={BATCH}")
                    if int(changes["Last"]) < mark:  # Orthanc's database began anew
                        mark = 0
                        continue
                    for change in changes["Changes"]:
                        if change["ChangeType"] == "NewInstance":
                            self._take(client, connection, str(change["ID"]))
                    if int(changes["Last"]) != mark:
                        mark = int(changes["Last"])
                        journal.write_mark(connection, self._url, mark)
                    if changes["Done"]:
                        self._end.wait(IDLE_SECONDS)
        finally:
            client.close()

    def _take(self, client: Any, connection: sqlite3.Connection, instance: str) -> None:
        """Keep one instance, durably, before the mark passes it."""
        from orthanc_api_client import exceptions

        try:
            tags = _json(client, f"instances/{instance}/simplified-tags")
            uid = str(tags.get("SOPInstanceUID", ""))
            if not UID.fullmatch(uid) or self._is_ours(uid):
                return
            size = int(_get(client, f"instances/{instance}/attachments/dicom/size").text)
            if size > self._max_bytes:
                log.warning("event=feed_left why=size bytes=%d", size)
                return
            content = _get(client, f"instances/{instance}/file").content
        except exceptions.ResourceNotFound:
            return
        except exceptions.HttpError as error:
            self._failures[instance] = self._failures.get(instance, 0) + 1
            if self._failures[instance] < TRIES:
                raise
            log.error("event=feed_left why=refused status=%s", error.http_status_code)
            del self._failures[instance]
            return
        try:
            head, dataset, meta = split(content)
        except Exception as error:  # noqa: BLE001  (bytes can break a parser in any way)
            log.error("event=feed_left why=unreadable kind=%s", type(error).__name__)
            return
        syntax = str(meta.TransferSyntaxUID)
        kept = self._spool.keep(uid, head, dataset, syntax)
        row = Received(
            sop_instance_uid=uid,
            digest=kept.digest,
            sop_class_uid=str(meta.MediaStorageSOPClassUID),
            transfer_syntax_uid=syntax,
            name=kept.name,
            size=kept.size,
            calling_aet="",
            received_at=time.time(),
            source=SOURCE,
        )
        journal.insert(connection, [row])


def split(content: bytes) -> tuple[bytes, bytes, Any]:
    """A file's preamble with file meta, its data set, and the file meta read (PS3.10 7.1)."""
    from pydicom import dcmread

    meta = dcmread(io.BytesIO(content), stop_before_pixels=True, specific_tags=[]).file_meta
    end = META_START + int(meta.FileMetaInformationGroupLength)
    return content[:end], content[end:], meta


def _get(client: Any, endpoint: str) -> Any:
    response = client.get(endpoint, timeout=TIMEOUT_SECONDS)
    if response is None:  # the client gives None for what it can't translate
        raise ConnectionError("no answer that can be read")
    return response


def _json(client: Any, endpoint: str) -> Any:
    return _get(client, endpoint).json()
