"""What the service tells an auditor: refused peers once each, each sender its own instances."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from app.intake import journal
from app.intake.journal import Received
from app.intake.ledger import Ledger, State
from app.intake.spool import Spool
from app.intake.turned_away import Door
from app.settings import load_settings
from app.telemetry import watch
from app.telemetry.watch import Watch
from tests.app.instances import STUDY, instance, write

CT = "1.2.840.10008.5.1.4.1.1.2"


class Site:
    """A spool with a journal, and who watches it."""

    def __init__(self, root: Path) -> None:
        self.root, self.file = root, root / "audit.xml"
        settings = load_settings(
            spool=root / "spool",
            audit_file=self.file,
            ae_title="RADLOOP",
            metrics_port=None,
            orthanc_url="http://pacs:8042",
        )
        self.spool = Spool(settings.spool, 0)
        self.ledger = Ledger(journal.prepare(self.spool.journal_file), self.spool)
        self.watch = Watch(settings, self.spool)

    def receive(self, number: int, calling_aet: str, source: str = "listener") -> None:
        made = instance(number)
        made.PatientID = "PAT-4711"
        name = f"aa/{number}.dcm"
        (self.spool.instances / "aa").mkdir(exist_ok=True)
        (path,) = write(self.root / str(number), made)
        path.rename(self.spool.path(name))
        uid = str(made.SOPInstanceUID)
        row = Received(uid, f"d{number}", CT, "1.2.840.10008.1.2.1", name, 1, calling_aet, 0.0)
        journal.insert(self.ledger.connection, [replace(row, source=source)])

    def messages(self) -> list[ET.Element]:
        return [ET.fromstring(line) for line in self.file.read_bytes().splitlines()]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield Site(tmp_path)


def test_each_sender_is_told_with_its_own_instances_of_this_version(site: Site) -> None:
    for number, sender in ((1, "CT_ER"), (2, "CT_ER"), (3, "PACS")):
        site.receive(number, sender)
    site.ledger.group()
    (study,) = site.ledger.complete(-1.0)
    site.watch.saw(study, site.ledger)
    site.ledger.move(study, State.DONE)
    site.receive(4, "PACS")
    site.ledger.group()
    (late,) = site.ledger.complete(-1.0)
    site.watch.saw(late, site.ledger)

    told = [
        (
            message.find("ActiveParticipant").attrib["AlternativeUserID"],  # type: ignore[union-attr]
            next(message.iter("SOPClass")).attrib["NumberOfInstances"],
        )
        for message in site.messages()
    ]
    assert late.version == 2
    assert told == [("AETITLES=CT_ER", "2"), ("AETITLES=PACS", "1"), ("AETITLES=PACS", "1")]


def test_a_delivery_counts_no_source_image_as_delivered(site: Site) -> None:
    site.receive(1, "CT_ER")
    site.ledger.group()
    (study,) = site.ledger.complete(-1.0)

    site.watch.delivered(study, "Orthanc http://pacs:8042/", site.ledger)

    (message,) = site.messages()
    objects = [
        o.attrib["ParticipantObjectID"] for o in message.iter("ParticipantObjectIdentification")
    ]
    assert objects == [STUDY, "PAT-4711"] and list(message.iter("SOPClass")) == []


def test_a_destination_that_got_nothing_is_not_told_as_one_that_did(site: Site) -> None:
    site.receive(1, "CT_ER")
    site.ledger.group()
    (study,) = site.ledger.complete(-1.0)

    site.watch.delivered(study, "folder /share (nothing for it)", site.ledger)
    assert site.messages() == []
    site.watch.delivered(study, "folder /share (RL-0673: of what was …)", site.ledger)
    (message,) = site.messages()
    users = [p.attrib["UserID"] for p in message.iter("ActiveParticipant")]
    assert users == ["RADLOOP", "folder /share"]


def test_what_we_fetched_from_orthanc_was_asked_for_by_us(site: Site) -> None:
    site.receive(1, "CT_ER")
    site.receive(2, "", "orthanc")
    site.ledger.group()
    (study,) = site.ledger.complete(-1.0)
    site.watch.saw(study, site.ledger)

    assert [
        [(p.attrib["UserID"], p.attrib["UserIsRequestor"]) for p in m.iter("ActiveParticipant")]
        for m in site.messages()
    ] == [
        [("CT_ER", "true"), ("RADLOOP", "false")],
        [("Orthanc http://pacs:8042", "false"), ("RADLOOP", "true")],
    ]


def test_refused_peers_are_told_once_and_counted(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "REFUSED_SECONDS", 0.0)
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.0)
    door = Door(site.spool.root)
    for _ in range(41):
        door.turned_away("aet", "10.0.0.9", "STRANGER")
    door.turned_away("tls", "10.0.0.8")
    door.close()

    site.watch.tend(site.ledger)
    site.watch.tend(site.ledger)

    told = [
        (
            [p.attrib["UserID"] for p in message.iter("ActiveParticipant")],
            message.findtext("EventIdentification/EventOutcomeDescription"),
        )
        for message in site.messages()
    ]
    assert sorted(told) == [
        (["RADLOOP", "10.0.0.8"], "refused: the TLS handshake failed"),
        (
            ["RADLOOP", "STRANGER"],
            "refused: its AE title is not among the allowed ones (41 times)",
        ),
    ]
    counts = site.ledger.connection.execute("SELECT name, count FROM counts ORDER BY name")
    assert [tuple(row) for row in counts] == [("aet", 41), ("tls", 1)]


def test_within_a_minute_a_hostile_peer_costs_one_message(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.0)
    site.watch.tend(site.ledger)  # nobody has come yet: the first is told at once
    door = Door(site.spool.root)
    door.turned_away("aet", "10.0.0.9", "STRANGER")
    door.close()
    site.watch.tend(site.ledger)
    door = Door(site.spool.root)
    door.turned_away("aet", "10.0.0.9", "STRANGER")
    door.close()
    for _ in range(5):
        site.watch.tend(site.ledger)

    assert len(site.messages()) == 1
