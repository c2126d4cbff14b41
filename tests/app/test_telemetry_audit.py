"""Audit messages against the schema of PS3.15 A.5.1 and the tables of A.5.3, written down here.

Source of the tables: PS3.15 A.5.3.1, .6, .7, .11 (M and MC rows, "shall be" values) and A.5.2.2
(AE titles), read in the standard's text; codes crossed with dcm4che's AuditMessages.java.
No RELAX NG validator is at hand: `SCHEMA` is the compact schema as a table of element
→ children in their order (a regular expression over names) and attributes (each a
regular expression over values; required where it is in the first mapping).
"""

from __future__ import annotations

import re
from base64 import b64decode
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.telemetry import audit
from app.telemetry.audit import AuditedStudy, Message, Node, Outcome
from tests.app.instances import instance, write

TOKEN = r"\S(.*\S)?"
ANY = r".*"
CODED = (
    "",
    {"csd-code": TOKEN, "codeSystemName": TOKEN, "originalText": TOKEN},
    {"displayName": TOKEN},
)
DATE_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"
SCHEMA: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {
    "AuditMessage": (
        "(EventIdentification )(ActiveParticipant )+(AuditSourceIdentification )"
        "(ParticipantObjectIdentification )*",
        {},
        {},
    ),
    "EventIdentification": (
        "(EventID )(EventTypeCode )*(EventOutcomeDescription )?",
        {"EventDateTime": DATE_TIME, "EventOutcomeIndicator": "0|4|8|12"},
        {"EventActionCode": "[CRUDE]"},
    ),
    "ActiveParticipant": (
        "(RoleIDCode )*(MediaIdentifier )?",
        {"UserID": ANY, "UserIsRequestor": "true|false"},
        {
            "AlternativeUserID": ANY,
            "UserName": ANY,
            "NetworkAccessPointID": TOKEN,
            "NetworkAccessPointTypeCode": "[1-5]",
        },
    ),
    "AuditSourceIdentification": (
        "(AuditSourceTypeCode )*",
        {"AuditSourceID": TOKEN},
        {"AuditEnterpriseSiteID": TOKEN},
    ),
    "AuditSourceTypeCode": ("", {"csd-code": "[1-9]"}, {}),
    "ParticipantObjectIdentification": (
        "(ParticipantObjectIDTypeCode )(ParticipantObjectName |ParticipantObjectQuery )"
        "(ParticipantObjectDetail )*(ParticipantObjectDescription )*",
        {"ParticipantObjectID": TOKEN},
        {
            "ParticipantObjectTypeCode": "[1-4]",
            "ParticipantObjectTypeCodeRole": r"[1-9]|1\d|2[0-6]",
            "ParticipantObjectDataLifeCycle": r"[1-9]|1[0-5]",
            "ParticipantObjectSensitivity": TOKEN,
        },
    ),
    "ParticipantObjectDetail": ("", {"type": TOKEN, "value": "[A-Za-z0-9+/]*=*"}, {}),
    "ParticipantObjectDescription": (
        "(MPPS )*(Accession )*(SOPClass )*(ParticipantObjectContainsStudy )?"
        "(Encrypted )?(Anonymized )?",
        {},
        {},
    ),
    "SOPClass": ("(Instance )*", {"NumberOfInstances": r"\d+"}, {"UID": TOKEN}),
    "ParticipantObjectName": ("", {}, {}),
    "EventOutcomeDescription": ("", {}, {}),
    **dict.fromkeys(
        ("EventID", "EventTypeCode", "RoleIDCode", "ParticipantObjectIDTypeCode"), CODED
    ),
}
ME = Node("RADLOOP", "10.0.0.5", "RADLOOP")
PEER, ARCHIVE = Node("CT_ER", "10.0.0.9", "CT_ER"), Node("Orthanc http://pacs:8042/")
CT, SEG = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.66.4"
STUDY = AuditedStudy("1.2.3", "PAT-4711", {SEG: 1, CT: 120})


def check_schema(element: ET.Element) -> None:
    children, required, optional = SCHEMA[element.tag]
    order = "".join(f"{child.tag} " for child in element)
    assert re.fullmatch(children, order), (element.tag, order)
    assert set(required) <= set(element.attrib) <= set(required) | set(optional), element.tag
    for name, value in element.attrib.items():
        assert re.fullmatch((required | optional)[name], value, re.S), (element.tag, name, value)
    for child in element:
        check_schema(child)


def parsed(message: Message, *, withhold: bool = False) -> ET.Element:
    xml = message.to_xml("RADLOOP", withhold_patient=withhold)
    assert b"\n" not in xml
    root = ET.fromstring(xml)
    check_schema(root)
    return root


def code(element: ET.Element | None) -> tuple[str, str, str] | None:
    if element is None:
        return None
    return (
        element.attrib["csd-code"],
        element.attrib["codeSystemName"],
        element.attrib["originalText"],
    )


SOURCE, DESTINATION = ("110153", "DCM", "Source Role ID"), ("110152", "DCM", "Destination Role ID")
STUDY_OBJECT = ("2", "3", ("110180", "DCM", "Study Instance UID"), "1.2.3")
PATIENT_OBJECT = ("1", "1", ("2", "RFC-3881", "Patient Number"), "PAT-4711")
ABOUT_STUDY = [STUDY_OBJECT, PATIENT_OBJECT]
# message, EventID, action, EventTypeCode, (UserID, AE titles, requestor, role) of each, objects
ME_TOLD, PEER_TOLD = ("RADLOOP", "AETITLES=RADLOOP"), ("CT_ER", "AETITLES=CT_ER")
TABLES = {
    "start A.5.3.1": (
        audit.application_activity(ME, started=True),
        ("110100", "DCM", "Application Activity"),
        "E",
        ("110120", "DCM", "Application Start"),
        [(*ME_TOLD, "false", ("110150", "DCM", "Application"))],
        [],
    ),
    "stop A.5.3.1": (
        audit.application_activity(ME, started=False),
        ("110100", "DCM", "Application Activity"),
        "E",
        ("110121", "DCM", "Application Stop"),
        [(*ME_TOLD, "false", ("110150", "DCM", "Application"))],
        [],
    ),
    "accessed A.5.3.6": (
        audit.instances_accessed(ME, STUDY),
        ("110103", "DCM", "DICOM Instances Accessed"),
        "R",
        None,
        [(*ME_TOLD, "true", None)],
        ABOUT_STUDY,
    ),
    "received A.5.3.7": (
        audit.instances_transferred(PEER, ME, STUDY, received=True),
        ("110104", "DCM", "DICOM Instances Transferred"),
        "C",
        None,
        [(*PEER_TOLD, "true", SOURCE), (*ME_TOLD, "false", DESTINATION)],
        ABOUT_STUDY,
    ),
    # A.5.2: the requestor is who initiated it, and nobody else.
    "fetched A.5.3.7": (
        audit.instances_transferred(ARCHIVE, ME, STUDY, received=True, fetched=True),
        ("110104", "DCM", "DICOM Instances Transferred"),
        "C",
        None,
        [(ARCHIVE.name, None, "false", SOURCE), (*ME_TOLD, "true", DESTINATION)],
        ABOUT_STUDY,
    ),
    # "If the Audit Source is not the receiver, […] then use R".
    "delivered A.5.3.7": (
        audit.instances_transferred(ME, ARCHIVE, STUDY, received=False),
        ("110104", "DCM", "DICOM Instances Transferred"),
        "R",
        None,
        [(*ME_TOLD, "true", SOURCE), (ARCHIVE.name, None, "false", DESTINATION)],
        ABOUT_STUDY,
    ),
    # Performing processes: UserIsRequestor shall be FALSE.
    "refused A.5.3.11": (
        audit.peer_refused(ME, PEER, "its AE title is not on the list"),
        ("110113", "DCM", "Security Alert"),
        "E",
        ("110126", "DCM", "Node Authentication"),
        [(*ME_TOLD, "false", None), (*PEER_TOLD, "false", None)],
        [("2", "13", ("110182", "DCM", "Node ID"), "10.0.0.9")],
    ),
    "lost A.5.3.11": (
        audit.recording_stopped(ME, Path("/var/audit.xml"), 7),
        ("110113", "DCM", "Security Alert"),
        "E",
        ("110133", "DCM", "Audit Recording Stopped"),
        [(*ME_TOLD, "false", None)],
        [("2", "13", ("12", "RFC-3881", "URI"), "file:///var/audit.xml")],
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_message_follows_the_schema_and_its_table(name: str) -> None:
    message, event, action, event_type, participants, objects = TABLES[name]

    root = parsed(message)

    identification = root.find("EventIdentification")
    assert identification is not None
    assert code(identification.find("EventID")) == event
    assert identification.attrib["EventActionCode"] == action
    assert code(identification.find("EventTypeCode")) == event_type
    told = [
        (
            p.attrib["UserID"],
            p.attrib.get("AlternativeUserID"),
            p.attrib["UserIsRequestor"],
            code(p.find("RoleIDCode")),
        )
        for p in root.findall("ActiveParticipant")
    ]
    assert told == participants
    assert [
        (
            o.attrib["ParticipantObjectTypeCode"],
            o.attrib.get("ParticipantObjectTypeCodeRole"),
            code(o.find("ParticipantObjectIDTypeCode")),
            o.attrib["ParticipantObjectID"],
        )
        for o in root.findall("ParticipantObjectIdentification")
    ] == objects


def test_an_alert_describes_itself_in_base64() -> None:
    root = parsed(audit.peer_refused(ME, PEER, "its AE title is not on the list"))

    (detail,) = root.iter("ParticipantObjectDetail")
    assert detail.attrib["type"] == "Alert Description"  # A.5.3.11: M
    assert b64decode(detail.attrib["value"]) == b"its AE title is not on the list"


def test_a_study_object_counts_its_instances_by_class() -> None:
    root = parsed(audit.instances_transferred(PEER, ME, STUDY, received=True))

    counted = {c.attrib["UID"]: c.attrib["NumberOfInstances"] for c in root.iter("SOPClass")}
    assert counted == {CT: "120", SEG: "1"}


def test_a_failure_says_why() -> None:
    failed = audit.instances_transferred(
        ME,
        PEER,
        STUDY,
        received=False,
        outcome=Outcome.SERIOUS,
        description="RL-0902: refused with 0xA700",
    )
    (event,) = parsed(failed).findall("EventIdentification")
    assert event.attrib["EventOutcomeIndicator"] == "8"
    assert event.findtext("EventOutcomeDescription") == "RL-0902: refused with 0xA700"


def test_a_patient_id_can_be_withheld_and_is_then_nowhere() -> None:
    message = audit.instances_accessed(ME, STUDY)

    assert b"PAT-4711" in message.to_xml("RADLOOP", withhold_patient=False)
    assert b"PAT-4711" not in message.to_xml("RADLOOP", withhold_patient=True)
    parsed(message, withhold=True)


@settings(deadline=None)
@given(st.text(), st.text(), st.text(min_size=1))
def test_nothing_that_a_peer_sends_breaks_the_xml(title: str, address: str, why: str) -> None:
    study = AuditedStudy("1.2.3", title, {CT: 1})
    source = Node(title, address.strip(), title)
    message = audit.instances_transferred(source, ME, study, received=True, description=why)
    ET.fromstring(message.to_xml("RADLOOP", withhold_patient=False))
    ET.fromstring(audit.peer_refused(ME, source, why).to_xml("RADLOOP", withhold_patient=False))


def test_the_patient_id_is_read_from_a_stored_instance(tmp_path: Path) -> None:
    named, nameless = instance(1), instance(2)
    named.PatientID = "PAT-4711"
    paths = write(tmp_path, named, nameless)

    assert [audit.patient_id_of(path) for path in paths] == ["PAT-4711", ""]
