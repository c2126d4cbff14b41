"""What a comparison with an earlier result of the same patient says, and what it is made from.

`operators/findings/longitudinal.py` compares; `operators/evidence/prior.py` reads earlier
results; reports, result.json and the API show what came out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from operators.job import Code, QualityFlag

MatchedBy = Literal["tracking UID", "code and side", "overlap"]


@dataclass(frozen=True)
class WhoAndWhen:
    """Of which patient a study is, and when it was made.

    Attributes
    ----------
    issuer, patient_id : str
        IssuerOfPatientID and PatientID; PHI, never shown.
    study_instance_uid : str
        Study Instance UID.
    study_date : str
        ``YYYYMMDD``; "" where it is missing or none.
    birth_date, sex : str
        PatientBirthDate and PatientSex, "" where they are missing; PHI, never shown.
    """

    issuer: str
    patient_id: str
    study_instance_uid: str
    study_date: str
    birth_date: str = ""
    sex: str = ""


@dataclass(frozen=True)
class Placed:
    """A mask with its place in the patient.

    Attributes
    ----------
    mask : numpy.ndarray, shape (z, y, x), bool
        Its bounding box.
    lps_from_index : numpy.ndarray, shape (4, 4), float64
        (i, j, k, 1) of that box → LPS mm.
    cut_off : bool or None
        Whether it ends where its image ended; None where that can't be told.
    """

    mask: np.ndarray
    lps_from_index: np.ndarray
    cut_off: bool | None


@dataclass(frozen=True)
class PriorStructure:
    """One segment of an earlier result.

    Attributes
    ----------
    number : int
        In its SEG.
    label : str
        As a reader sees it.
    category, type : Code
        Segmented Property Category and Type.
    laterality : Code or None
        Type modifier.
    tracking_uid : str
        "" where it has none.
    load : callable
        Its mask, which is only decoded where it is asked for.
    """

    number: int
    label: str
    category: Code
    type: Code
    laterality: Code | None
    tracking_uid: str
    load: Callable[[], Placed]


@dataclass(frozen=True)
class PriorIdentity:
    """Which earlier result.

    Attributes
    ----------
    study_instance_uid, study_date : str
        Its study.
    seg_sop_instance_uid, seg_series_instance_uid : str
        Its segmentation.
    reports : tuple of (str, str, str)
        SOP Class, Series and SOP Instance UID of the reports on it.
    confirmed : bool
        Whether a reader confirmed it.
    ours : bool
        Whether it says that radloop made it.
    bundle, version, weights_sha256 : str
        Model; "" where it is not told.
    """

    study_instance_uid: str
    study_date: str
    seg_sop_instance_uid: str
    seg_series_instance_uid: str
    reports: tuple[tuple[str, str, str], ...]
    confirmed: bool
    ours: bool
    bundle: str
    version: str
    weights_sha256: str


@dataclass(frozen=True)
class Prior:
    """An earlier result, as read from DICOM.

    Attributes
    ----------
    identity : PriorIdentity
        Which.
    whose : WhoAndWhen
        Of whom and when.
    frame_of_reference_uid : str
        Of its masks.
    structures : tuple of PriorStructure
        Its segments.
    rejected : bool
        Whether a reader rejected it.
    recorded_at : str
        Later is newer among results of one study.
    """

    identity: PriorIdentity
    whose: WhoAndWhen
    frame_of_reference_uid: str
    structures: tuple[PriorStructure, ...]
    rejected: bool = False
    recorded_at: str = ""


@dataclass(frozen=True)
class Priors:
    """What was found of earlier results.

    Attributes
    ----------
    results : tuple of Prior
        Any number, of any patient: who compares looks at each.
    left_out : tuple of str
        Why something was not read or nothing could be looked for; no PHI.
    """

    results: tuple[Prior, ...] = ()
    left_out: tuple[str, ...] = ()


class PriorSource(Protocol):
    """Where earlier results come from: a folder, an archive."""

    def __call__(self, present: WhoAndWhen) -> Priors:
        """Earlier results that may be of the same patient."""


@dataclass(frozen=True)
class Change:
    """One measurement, then and now.

    Attributes
    ----------
    name : str
        As in `Measurement`: volume, long_axis, short_axis.
    unit : Code
        UCUM, of all but the percentage.
    prior, present, change : float
        Values and their difference.
    change_percent : float
        Of the prior value.
    uncertainty : float or None
        Of the difference: root of the sum of both measurements' squares.
    exceeds_uncertainty : bool or None
        Whether the difference is larger; None where that can't be told, where one of the
        two may be a part of the structure only, or where another model made one of them.
    """

    name: str
    unit: Code
    prior: float
    present: float
    change: float
    change_percent: float
    uncertainty: float | None
    exceeds_uncertainty: bool | None


@dataclass(frozen=True)
class Pair:
    """A structure that is in both.

    Attributes
    ----------
    number : int
        Of the present segment.
    label : str
        Of the present segment.
    prior_number : int
        Of the segment in the earlier SEG.
    matched_by : MatchedBy
        Why the two are one.
    dice : float or None
        Overlap in the patient; only where that matched them.
    changes : tuple of Change
        Volume first.
    doubling_time_days : float or None
        Of the volume; only where it grew by more than the uncertainty.
    remarks : tuple of str
        What limits the comparison.
    """

    number: int
    label: str
    prior_number: int
    matched_by: MatchedBy
    dice: float | None
    changes: tuple[Change, ...]
    doubling_time_days: float | None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class NotMatched:
    """A structure of one of the two results that is not compared.

    Attributes
    ----------
    label : str
        Which.
    present : bool
        Whether it is one of the present result, else of the earlier one.
    reason : str
        Why.
    """

    label: str
    present: bool
    reason: str


@dataclass(frozen=True)
class Comparison:
    """A report against an earlier result, or why there is none to compare with.

    Attributes
    ----------
    prior : PriorIdentity or None
        None where nothing was compared; then a flag says why.
    interval_days : int or None
        From the earlier study date to the present one.
    pairs, not_matched
        Every structure that either result found.
    flags : tuple of QualityFlag
        What a reader must know of the comparison.
    """

    prior: PriorIdentity | None
    interval_days: int | None
    pairs: tuple[Pair, ...] = ()
    not_matched: tuple[NotMatched, ...] = ()
    flags: tuple[QualityFlag, ...] = ()
