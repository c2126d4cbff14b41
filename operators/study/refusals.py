"""Why a file or a study is left out: RL-01xx and RL-02xx.

FileRefusal
├── NotARegularFile      RL-0101
├── EmptyFile            RL-0102
├── NotDicom             RL-0103
├── TruncatedFile        RL-0104
├── NestedTooDeep        RL-0105
├── InflatesTooFar       RL-0106
├── HeaderTooLarge       RL-0107
├── InvalidUid           RL-0108
├── WrongPixelLength     RL-0109
├── InvalidValue         RL-0110
├── MediaDirectory       RL-0111
├── Unparsable           RL-0112
├── UnreadableFile       RL-0113
├── MissingPixels        RL-0114
└── FrameTooLarge        RL-0115
StudyRefusal
├── MixedPatients        RL-0201
└── InstanceConflict     RL-0202
ModelRefusal
└── UnknownAcceptsKey    RL-0450

A value that came with the file is never repeated in a sentence unless it is a
number: it may hold a name, a path or a control character.
"""

from __future__ import annotations

from operators.errors import FileRefusal, ModelRefusal, StudyRefusal


class NotARegularFile(FileRefusal):
    """A link out of the folder, a pipe, a device: never opened."""

    code = "RL-0101"

    def __init__(self, kind: str) -> None:
        super().__init__(f"{kind}; only regular files inside the folder are read. Copy it there.")


class EmptyFile(FileRefusal):
    """Zero bytes."""

    code = "RL-0102"

    def __init__(self) -> None:
        super().__init__("the file has 0 bytes. Send or copy it again.")


class NotDicom(FileRefusal):
    """Neither DICM at byte 128 nor a bare dataset."""

    code = "RL-0103"

    def __init__(self, why: str) -> None:
        super().__init__(f"not a DICOM file: {why}. Remove it, or export it again as DICOM.")


class TruncatedFile(FileRefusal):
    """Something claims more bytes than there are."""

    code = "RL-0104"

    def __init__(self, what: str, claimed: int, available: int) -> None:
        self.claimed, self.available = claimed, available
        super().__init__(
            f"{what} needs {claimed} bytes, {available} are left. "
            "The file was cut or lies about its length: send or copy it again."
        )


class NestedTooDeep(FileRefusal):
    """Sequences in sequences without end."""

    code = "RL-0105"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"sequences are nested more than {limit} deep. No real object is: ask its maker."
        )


class InflatesTooFar(FileRefusal):
    """A deflated dataset that grows beyond the limit."""

    code = "RL-0106"

    def __init__(self, deflated: int, limit: int) -> None:
        super().__init__(
            f"{deflated} deflated bytes inflate to more than {limit}. "
            "Ask the PACS to send it without Deflated transfer syntax."
        )


class HeaderTooLarge(FileRefusal):
    """More before the pixel data than any header holds."""

    code = "RL-0107"

    def __init__(self, unit: str, limit: int) -> None:
        super().__init__(
            f"the header holds more than {limit} {unit}. Not read: ask its maker what it carries."
        )


class InvalidUid(FileRefusal):
    """A UID that is absent, empty or against PS3.5 section 9.1."""

    code = "RL-0108"

    def __init__(self, keyword: str, fault: str) -> None:
        self.keyword = keyword
        super().__init__(
            f"{keyword} {fault}. Without a valid UID the instance can't be told from others: "
            "ask its sender to repair it."
        )


class WrongPixelLength(FileRefusal):
    """Pixel data and the size in the header disagree."""

    code = "RL-0109"

    def __init__(self, unit: str, found: int, expected: int) -> None:
        self.found, self.expected = found, expected
        super().__init__(
            f"pixel data hold {found} {unit}, Rows, Columns and NumberOfFrames ask for {expected}. "
            "Send the instance again."
        )


class InvalidValue(FileRefusal):
    """An element that radloop reads does not hold what its VR allows."""

    code = "RL-0110"

    def __init__(self, keyword: str, vr: str) -> None:
        self.keyword = keyword
        super().__init__(
            f"{keyword} is not a valid {vr} (PS3.5 section 6.2). Ask its sender to repair it."
        )


class MediaDirectory(FileRefusal):
    """A DICOMDIR: it lists objects and is none."""

    code = "RL-0111"

    def __init__(self) -> None:
        super().__init__("a DICOMDIR lists other files and holds no image. It is not needed here.")


class Unparsable(FileRefusal):
    """The bytes don't follow PS3.5."""

    code = "RL-0112"

    def __init__(self, why: str) -> None:
        super().__init__(f"{why}. The file is damaged or made wrongly: send or export it again.")


class UnreadableFile(FileRefusal):
    """The operating system says no."""

    code = "RL-0113"

    def __init__(self, why: str) -> None:
        super().__init__(f"can't be read: {why}. Check its permissions and the disk.")


class MissingPixels(FileRefusal):
    """An image object that holds no image."""

    code = "RL-0114"

    def __init__(self, sop_class: str) -> None:
        super().__init__(
            f"{sop_class} without pixel data. The file was cut before them, or only its header "
            "was exported: send it again."
        )


class FrameTooLarge(FileRefusal):
    """A compressed image that would decode to more than any real one."""

    code = "RL-0115"

    def __init__(self, decoded: int, limit: int) -> None:
        super().__init__(
            f"one frame decodes to {decoded} bytes (limit {limit}). "
            "Ask the PACS to send it uncompressed, if it is real."
        )


class MixedPatients(StudyRefusal):
    """One Study Instance UID, more than one patient."""

    code = "RL-0201"

    def __init__(self, study_uid: str, patients: int) -> None:
        self.patients = patients
        super().__init__(
            f"study {study_uid} holds instances of {patients} patients "
            "(IssuerOfPatientID and PatientID differ). "
            "Correct the study in the PACS, then send it again."
        )


class InstanceConflict(StudyRefusal):
    """One SOP Instance UID, more than one content."""

    code = "RL-0202"

    def __init__(self, study_uid: str, sop_uid: str, digests: tuple[str, ...]) -> None:
        self.digests = digests
        super().__init__(
            f"study {study_uid}: instance {sop_uid} came with {len(digests)} different contents "
            f"(sha256 {' and '.join(digests)}). "
            "Find out in the PACS which one is right and send only that."
        )


class UnknownAcceptsKey(ModelRefusal):
    """A card's `accepts` block asks something that is not known here."""

    code = "RL-0450"

    def __init__(self, key: str, known: tuple[str, ...]) -> None:
        super().__init__(
            f"accepts.{key} is not known (known: {', '.join(known)}). Correct the card."
        )
