"""What routes may ask of a study, from the first bytes of its instances.

As `app.intake.peek`: a bounded prefix of each file, up to Series Instance UID and no
further. Patient elements lie before that, too; their values are never looked at.
Descriptions may hold what a person typed: they are matched and shown to whoever runs
`radloop routes explain`, and never logged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from app.intake.peek import PREFIXES, UID, UnreadableError, read_prefix
from app.routes.model import LONGEST_VALUE

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SPECIFIC_CHARACTER_SET = 0x00080005
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E
STUDY_DESCRIPTION = 0x00081030
ELEMENTS = {  # condition → element of a series
    "modality": 0x00080060,
    "body_part": 0x00180015,
    "series_description": 0x0008103E,
    "protocol_name": 0x00181030,
    "manufacturer": 0x00080070,
    "station_name": 0x00081010,
    "image_type": 0x00080008,
}
DISTINCT = 16  # different values of one element that are kept of a series


@dataclass(frozen=True)
class InstanceFacts:
    """One instance, as far as a route may ask.

    Attributes
    ----------
    study_instance_uid, series_instance_uid : str
        (0020,000D), (0020,000E); the second may be empty.
    study_description : str
        Decoded, at most 64 characters.
    values : mapping
        Condition → values of its element; ``("",)`` where it is empty or absent.
    """

    study_instance_uid: str
    series_instance_uid: str
    study_description: str
    values: Mapping[str, tuple[str, ...]]

    @property
    def is_localizer(self) -> bool:
        """Whether ImageType, value 3, says LOCALIZER (PS3.3 C.8.2.1.1.1)."""
        return "LOCALIZER" in self.values["image_type"][2:3]


@dataclass(frozen=True)
class SeriesFacts:
    """One series.

    Attributes
    ----------
    series_instance_uid : str
        (0020,000E).
    instances, slices : int
        All images; those that are no localizers.
    values : mapping
        Condition → different values over the slices, or over the localizers where the
        series holds nothing else.
    """

    series_instance_uid: str
    instances: int
    slices: int
    values: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class StudyFacts:
    """One study as it is known so far.

    Attributes
    ----------
    study_instance_uid : str
        (0020,000D).
    study_values : mapping
        Condition → different values: calling_aet, called_aet, source, study_description.
        Empty where nobody has told it.
    series : tuple of SeriesFacts
        By UID.
    """

    study_instance_uid: str
    study_values: Mapping[str, tuple[str, ...]]
    series: tuple[SeriesFacts, ...]


def read_instance(path: Path) -> InstanceFacts:
    """Read the facts of one stored instance.

    Raises
    ------
    UnreadableError
        Not DICOM, or without a Study Instance UID; the message holds no value.
    OSError
        The file can't be read.
    """
    header = read_header(path)
    try:
        return _facts(header)
    except UnreadableError:
        raise
    except Exception as error:  # a peer's bytes can break a decoder in any way
        raise UnreadableError(f"header can't be decoded ({type(error).__name__})") from error


def read_header(path: Path) -> Dataset:
    """Elements of a stored instance up to Series Instance UID, none of them converted.

    Raises
    ------
    UnreadableError
        Not DICOM, or a header that does not get there within the largest prefix.
    OSError
        The file can't be read.
    """
    size = path.stat().st_size
    for prefix in PREFIXES:
        # A peer's bytes can break a parser in any way; the instance itself is safe.
        try:
            header, _ = read_prefix(path, prefix, SERIES_INSTANCE_UID, whole=prefix >= size)
        except OSError:
            raise
        except Exception as error:
            if prefix >= size or prefix == PREFIXES[-1]:
                raise UnreadableError(f"header can't be read ({type(error).__name__})") from error
            continue
        if header is not None:
            return header
    raise UnreadableError(f"no Series Instance UID (0020,000E) in the first {PREFIXES[-1]} bytes")


def _facts(header: Dataset) -> InstanceFacts:
    charset = _raw(header, SPECIFIC_CHARACTER_SET).decode("ascii", "replace")
    study, series = _uid(header, STUDY_INSTANCE_UID), _uid(header, SERIES_INSTANCE_UID)
    if not study:
        raise UnreadableError("no Study Instance UID (0020,000D)")
    texts = {name: _text(header, tag, charset) for name, tag in ELEMENTS.items()}
    values = {name: (text,) for name, text in texts.items()} | {
        "image_type": tuple(part.strip() for part in texts["image_type"].split("\\"))
    }
    return InstanceFacts(
        study_instance_uid=study,
        series_instance_uid=series,
        study_description=_text(header, STUDY_DESCRIPTION, charset),
        values=values,
    )


def _uid(header: Dataset, tag: int) -> str:
    """A UID that is one, and not the first half of one; else empty."""
    raw = _raw(header, tag)
    text = raw.decode("ascii", "replace").strip(" \0")
    # At the end of a file pydicom takes what there is.
    whole = tag in header and len(raw) == getattr(header.get_item(tag), "length", -1)
    return text if whole and UID.fullmatch(text) else ""


def _raw(header: Dataset, tag: int) -> bytes:
    """Bytes of an element as they stand: not converted, so nothing warns with its value."""
    value = header.get_item(tag).value if tag in header else None
    return value if isinstance(value, bytes) else b""


def _text(header: Dataset, tag: int, charset: str) -> str:
    from pydicom.charset import decode_bytes, python_encoding

    raw = _raw(header, tag)
    if raw.isascii() and b"\x1b" not in raw:  # an escape turns ASCII into Japanese (PS3.5 6.1.2.5)
        text = raw.decode("ascii")
    else:
        names = charset.split("\\")
        codecs = [python_encoding.get(name.strip(" \0"), "iso8859") for name in names]
        text = decode_bytes(raw, codecs, set())
    shown = "".join(c if c.isprintable() else "?" for c in text.strip(" \0"))
    # ImageType has several values in one.
    return shown[: LONGEST_VALUE * (DISTINCT if tag == ELEMENTS["image_type"] else 1)]


@dataclass
class _Counted:
    """Different values of the images of one kind in a series, and how many images."""

    images: int = 0
    values: dict[str, dict[str, None]] = field(default_factory=dict)

    def add(self, facts: InstanceFacts) -> None:
        self.images += 1
        for name, values in facts.values.items():
            _remember(self.values.setdefault(name, {}), values)


def _remember(known: dict[str, None], values: Iterable[str]) -> None:
    """A set that keeps the order, and can't be filled without end by a peer."""
    for value in values:
        if len(known) < DISTINCT:
            known[value] = None


@dataclass
class Gathering:
    """A study while it is coming in: add instances, ask for the facts at any time.

    Attributes
    ----------
    study_instance_uid : str
        All instances are of this one.
    """

    study_instance_uid: str
    _study: dict[str, dict[str, None]] = field(default_factory=dict)
    _series: dict[str, tuple[_Counted, _Counted]] = field(default_factory=dict)

    def add(
        self, facts: InstanceFacts, *, calling_aet: str = "", called_aet: str = "", source: str = ""
    ) -> None:
        """Take in one instance; empty where it is not known who sent it, or how."""
        told = {
            "calling_aet": calling_aet.strip(),
            "called_aet": called_aet.strip(),
            "source": source,
        }
        for name, value in told.items():
            _remember(self._study.setdefault(name, {}), [value] if value else [])
        _remember(self._study.setdefault("study_description", {}), [facts.study_description])
        pair = self._series.setdefault(facts.series_instance_uid, (_Counted(), _Counted()))
        pair[facts.is_localizer].add(facts)

    def facts(self) -> StudyFacts:
        """As it is now."""
        return StudyFacts(
            self.study_instance_uid,
            {name: tuple(values) for name, values in self._study.items()},
            tuple(_series(uid, *pair) for uid, pair in sorted(self._series.items())),
        )


def _series(uid: str, slices: _Counted, localizers: _Counted) -> SeriesFacts:
    told = slices if slices.images else localizers
    values = {name: tuple(known) for name, known in told.values.items()}
    return SeriesFacts(uid, slices.images + localizers.images, slices.images, values)


def read_studies(
    files: Iterable[Path], *, calling_aet: str = "", called_aet: str = "", source: str = ""
) -> tuple[list[StudyFacts], int]:
    """Facts of every study among some files, by UID, and how many files could not be read."""
    gathered: dict[str, Gathering] = {}
    unreadable = 0
    for file in files:
        try:
            facts = read_instance(file)
        except (UnreadableError, OSError):
            unreadable += 1
            continue
        uid = facts.study_instance_uid
        study = gathered.setdefault(uid, Gathering(uid))
        study.add(facts, calling_aet=calling_aet, called_aet=called_aet, source=source)
    return [gathered[uid].facts() for uid in sorted(gathered)], unreadable
