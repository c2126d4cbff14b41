"""Severity of what a classifier says, only where its card states a measured operating point.

The grades are those of radloop's roadmap, by code and modality; labels are never read. A score
below the operating point says nothing: it is no "normal".
"""

from __future__ import annotations

from operators.job import Severity
from operators.reading import ClassScores, Reading

_XRAY, _CT, _MR = ("CR", "DX", "RG"), ("CT",), ("MR",)

# Modalities, SNOMED CT codes, grade. A code that is not here has none.
_GRADES: tuple[tuple[tuple[str, ...], dict[str, str], Severity], ...] = (
    (_XRAY, {"36118008": "Pneumothorax"}, "CRITICAL"),
    (_XRAY, {"233604007": "Pneumonia", "4147007": "Mass"}, "HIGH"),
    (_XRAY, {"72704001": "Fracture"}, "MODERATE"),
    (
        _CT,
        {
            "50960005": "Hemorrhage",
            "1386000": "Intracranial hemorrhage",
            "274100004": "Cerebral hemorrhage",
            "55641003": "Infarct",
        },
        "CRITICAL",
    ),
    (_CT, {"4147007": "Mass"}, "HIGH"),
    (_MR, {"108369006": "Neoplasm"}, "HIGH"),
    (_MR, {"52988006": "Lesion"}, "MODERATE"),
)


def class_severity(reading: Reading, scores: ClassScores) -> Severity:
    """Grade of one image's class.

    Parameters
    ----------
    reading : Reading
        Of a classifier.
    scores : ClassScores
        One of its.

    Returns
    -------
    Severity
        NOT_ASSESSED without an operating point, below it, of another class than the one
        that it was measured for, or where the code has no grade.
    """
    said = reading.said_class(scores)
    if said is None or said != reading.point_class:
        return "NOT_ASSESSED"
    code = reading.classes[said].code
    modality = str(reading.volume.headers[0].get("Modality", ""))
    if code is None or code.scheme != "SCT":
        return "NOT_ASSESSED"
    return next(
        (
            grade
            for modalities, values, grade in _GRADES
            if modality in modalities and code.value in values
        ),
        "NOT_ASSESSED",
    )
