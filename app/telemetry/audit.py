"""DICOM audit messages: who did what to whose study (PS3.15 A.5).

Each function below is one table of A.5.3 and returns the message; `Message.to_xml`
writes it in the order of the schema in A.5.1. The tables demand a patient for every
message about a study: its Patient ID is in the message, its name never. The trail
(`trail.py`) decides where a Patient ID may go.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from xml.etree import ElementTree as ET

from app.routes.facts import read_header

PATIENT_ID = 0x00100020
WITHHELD = "withheld"  # stands for a Patient ID where it may not go
UNKNOWN = "unknown"


class Outcome(StrEnum):
    """EventOutcomeIndicator (A.5.1)."""

    SUCCESS = "0"
    MINOR = "4"
    SERIOUS = "8"
    MAJOR = "12"


@dataclass(frozen=True)
class AuditCode:
    """A code of PS3.16 annex D, or of the schema's own lists."""

    value: str
    meaning: str
    scheme: str = "DCM"

    def write(self, parent: ET.Element, name: str) -> None:
        """Add it as an element of this name."""
        ET.SubElement(
            parent,
            name,
            {
                "csd-code": self.value,
                "codeSystemName": self.scheme,
                "displayName": self.meaning,
                "originalText": self.meaning,
            },
        )


ACTIVITY = AuditCode("110100", "Application Activity")
ACCESSED = AuditCode("110103", "DICOM Instances Accessed")
TRANSFERRED = AuditCode("110104", "DICOM Instances Transferred")
ALERT = AuditCode("110113", "Security Alert")
START = AuditCode("110120", "Application Start")
STOP = AuditCode("110121", "Application Stop")
NODE_AUTHENTICATION = AuditCode("110126", "Node Authentication")
RECORDING_STOPPED = AuditCode("110133", "Audit Recording Stopped")
APPLICATION = AuditCode("110150", "Application")
DESTINATION_ROLE = AuditCode("110152", "Destination Role ID")
SOURCE_ROLE = AuditCode("110153", "Source Role ID")
STUDY_UID = AuditCode("110180", "Study Instance UID")
NODE_ID = AuditCode("110182", "Node ID")
PATIENT_NUMBER = AuditCode("2", "Patient Number", "RFC-3881")
URI = AuditCode("12", "URI", "RFC-3881")
ALERT_DESCRIPTION = "Alert Description"


@dataclass(frozen=True)
class Node:
    """A process on the network.

    Attributes
    ----------
    name : str
        AE title, or an address without a password.
    address : str
        IP address; empty where not known.
    aet : str
        AE title, written as A.5.2.2 wants it; empty for what is no DICOM application.
    """

    name: str
    address: str = ""
    aet: str = ""


@dataclass(frozen=True)
class AuditedStudy:
    """A study that a message is about.

    Attributes
    ----------
    study_instance_uid : str
        (0020,000D).
    patient_id : str
        (0010,0020); empty where the source left it so.
    instances : mapping
        SOP Class UID → number of instances that the event concerns.
    """

    study_instance_uid: str
    patient_id: str
    instances: Mapping[str, int]


@dataclass(frozen=True)
class Alert:
    """What a security alert is about.

    Attributes
    ----------
    kind : AuditCode
        Node ID or URI: what `subject` is.
    subject : str
        IP address or URI; empty where it is not known.
    description : str
        What happened, a sentence without PHI.
    """

    kind: AuditCode
    subject: str
    description: str


@dataclass(frozen=True)
class _Participant:
    node: Node
    requestor: bool
    role: AuditCode | None = None


@dataclass(frozen=True)
class Message:
    """One audit message.

    Attributes
    ----------
    event : AuditCode
        EventID.
    action : str
        C, R, U, D or E.
    outcome : Outcome
        How it went.
    at : datetime
        When, with its time zone.
    participants : tuple
        At least one; at most one requested it.
    event_type : AuditCode or None
        EventTypeCode.
    description : str
        Why it failed, a sentence without PHI; empty: left out.
    study : AuditedStudy or None
        Written as a study and a patient object.
    alert : Alert or None
        Written as the alert's subject.
    """

    event: AuditCode
    action: str
    outcome: Outcome
    at: datetime
    participants: tuple[_Participant, ...]
    event_type: AuditCode | None = None
    description: str = ""
    study: AuditedStudy | None = None
    alert: Alert | None = None

    def to_xml(self, source_id: str, *, withhold_patient: bool) -> bytes:
        """The message as one line of UTF-8, without an XML declaration.

        Parameters
        ----------
        source_id : str
            AuditSourceID: this radloop.
        withhold_patient : bool
            Write "withheld" in the place of the Patient ID.
        """
        root = ET.Element("AuditMessage")
        self._write_event(root)
        for participant in self.participants:
            _write_participant(root, participant)
        source = ET.SubElement(
            root, "AuditSourceIdentification", {"AuditSourceID": _xml(source_id)}
        )
        ET.SubElement(source, "AuditSourceTypeCode", {"csd-code": "4"})  # application server
        if self.study is not None:
            _write_study(root, self.study)
            _write_patient(root, WITHHELD if withhold_patient else self.study.patient_id)
        if self.alert is not None:
            _write_alert(root, self.alert)
        return ET.tostring(root, encoding="utf-8", xml_declaration=False)

    def _write_event(self, root: ET.Element) -> None:
        event = ET.SubElement(
            root,
            "EventIdentification",
            {
                "EventActionCode": self.action,
                "EventDateTime": self.at.isoformat(timespec="milliseconds"),
                "EventOutcomeIndicator": self.outcome,
            },
        )
        self.event.write(event, "EventID")
        if self.event_type is not None:
            self.event_type.write(event, "EventTypeCode")
        if self.description:
            ET.SubElement(event, "EventOutcomeDescription").text = _xml(self.description)


def _xml(text: str) -> str:
    """On one line, of characters that XML 1.0 can hold: a peer chose some of these texts."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _write_participant(root: ET.Element, participant: _Participant) -> None:
    attributes = {
        "UserID": _xml(participant.node.name) or UNKNOWN,
        "UserIsRequestor": str(participant.requestor).lower(),
    }
    if participant.node.aet:
        attributes["AlternativeUserID"] = f"AETITLES={_xml(participant.node.aet)}"
    if participant.node.address:
        attributes["NetworkAccessPointID"] = _xml(participant.node.address)
        attributes["NetworkAccessPointTypeCode"] = "2"
    element = ET.SubElement(root, "ActiveParticipant", attributes)
    if participant.role is not None:
        participant.role.write(element, "RoleIDCode")


def _object(
    root: ET.Element, identifier: str, kind: AuditCode, type_code: str, role: str | None
) -> ET.Element:
    attributes = {"ParticipantObjectID": identifier, "ParticipantObjectTypeCode": type_code}
    if role is not None:
        attributes["ParticipantObjectTypeCodeRole"] = role
    element = ET.SubElement(root, "ParticipantObjectIdentification", attributes)
    kind.write(element, "ParticipantObjectIDTypeCode")
    ET.SubElement(element, "ParticipantObjectName")  # the schema wants one; it stays empty
    return element


def _write_study(root: ET.Element, study: AuditedStudy) -> None:
    element = _object(root, study.study_instance_uid, STUDY_UID, "2", "3")
    described = ET.SubElement(element, "ParticipantObjectDescription")
    for uid, count in sorted(study.instances.items()):
        ET.SubElement(described, "SOPClass", {"UID": _xml(uid), "NumberOfInstances": str(count)})


def _write_patient(root: ET.Element, patient_id: str) -> None:
    _object(root, _xml(patient_id) or UNKNOWN, PATIENT_NUMBER, "1", "1")


def _write_alert(root: ET.Element, alert: Alert) -> None:
    element = _object(root, _xml(alert.subject) or UNKNOWN, alert.kind, "2", "13")
    value = base64.b64encode(_xml(alert.description).encode()).decode("ascii")
    ET.SubElement(element, "ParticipantObjectDetail", {"type": ALERT_DESCRIPTION, "value": value})


def now() -> datetime:
    """This moment, with its time zone."""
    return datetime.now(UTC)


def application_activity(me: Node, *, started: bool) -> Message:
    """`radloop serve` has started or stops (A.5.3.1)."""
    return Message(
        ACTIVITY,
        "E",
        Outcome.SUCCESS,
        now(),
        (_Participant(me, False, APPLICATION),),
        event_type=START if started else STOP,
    )


def instances_transferred(
    source: Node,
    to: Node,
    study: AuditedStudy,
    *,
    received: bool,
    fetched: bool = False,
    outcome: Outcome = Outcome.SUCCESS,
    description: str = "",
) -> Message:
    """Instances of a study have gone from one node to another (A.5.3.7).

    Once for a study that was received, once for each destination that results reached,
    or did not: then with the outcome and why. Who asked for it (UserIsRequestor, A.5.2) is
    the source, or who `fetched` it.

    `received` tells the receiver's own message from a sender's: who is not the receiver
    can't know whether it held the instances before, and has to write R (read).
    """
    return Message(
        TRANSFERRED,
        "C" if received else "R",
        outcome,
        now(),
        (
            _Participant(source, not fetched, SOURCE_ROLE),
            _Participant(to, fetched, DESTINATION_ROLE),
        ),
        description=description,
        study=study,
    )


def instances_accessed(me: Node, study: AuditedStudy) -> Message:
    """A study was read to analyse it (A.5.3.6)."""
    return Message(ACCESSED, "R", Outcome.SUCCESS, now(), (_Participant(me, True),), study=study)


def peer_refused(me: Node, peer: Node, why: str) -> Message:
    """A peer was turned away at the door (A.5.3.11).

    Serious, which says that the refusal held; major would say that it may not have.
    """
    return Message(
        ALERT,
        "E",
        Outcome.SERIOUS,
        now(),
        (_Participant(me, False), _Participant(peer, False)),
        event_type=NODE_AUTHENTICATION,
        description=why,
        alert=Alert(NODE_ID, peer.address, why),
    )


def recording_stopped(me: Node, file: Path, lost: int) -> Message:
    """Messages are missing in the trail at this place, and how many (A.5.3.11)."""
    why = f"{lost} audit messages could be written nowhere and are lost"
    return Message(
        ALERT,
        "E",
        Outcome.MAJOR,
        now(),
        (_Participant(me, False),),
        event_type=RECORDING_STOPPED,
        description=why,
        alert=Alert(URI, file.as_uri(), why),
    )


def patient_id_of(path: Path) -> str:
    """Patient ID (0010,0020) of a stored instance, for the audit file and nothing else.

    Raises
    ------
    UnreadableError, OSError
        As `app.routes.facts.read_header`.
    """
    header = read_header(path)
    raw = header.get_item(PATIENT_ID).value if PATIENT_ID in header else None
    return raw.decode("ascii", "replace").strip(" \0") if isinstance(raw, bytes) else ""
