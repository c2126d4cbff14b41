"""An answer reaches who waits for it, whichever of pynetdicom's threads looks first."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import CTImageStorage
from pynetdicom import AE, evt
from pynetdicom.association import Association

from app.delivery import cstore
from app.delivery.cstore import CStoreDestination
from tests.app.instances import instance


class PassedAlready(threading.Event):
    """A checkpoint whose thread has gone by when it is told to stop there."""

    def clear(self) -> None:
        """Too late."""

    def wait(self, timeout: float | None = None) -> bool:
        time.sleep(0.005)
        return True


@pytest.fixture
def archive() -> Iterator[int]:
    """A storage SCP that takes everything; its port."""
    entity = AE(ae_title="PACS")
    entity.add_supported_context(CTImageStorage)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda _: 0x0000)]
    )
    yield int(server.server_address[1])
    server.shutdown()


def test_the_thread_that_only_looks_takes_no_answer(
    archive: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = cstore.keep_answers

    def keep_answers(association: Association) -> None:
        installed(association)
        send = association.dimse.send_msg

        def send_and_dawdle(*message: Any) -> None:
            send(*message)
            time.sleep(0.2)  # the answer is there before anybody waits for it

        monkeypatch.setattr(association, "_reactor_checkpoint", PassedAlready())
        monkeypatch.setattr(association.dimse, "send_msg", send_and_dawdle)

    monkeypatch.setattr(cstore, "keep_answers", keep_answers)
    monkeypatch.setattr(cstore, "SECONDS", 5.0)
    file = tmp_path / "ct.dcm"
    instance(1).save_as(file, enforce_file_format=True)

    CStoreDestination("PACS", "127.0.0.1", archive).deliver([file])
