"""Rejection notes as a department's workstation writes them."""

from __future__ import annotations

from collections.abc import Sequence

from highdicom import ko, sr
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

TITLES = {
    "113001": "Rejected for Quality Reasons",
    "113037": "Rejected for Patient Safety Reasons",
    "113038": "Incorrect Modality Worklist Entry",
    "113039": "Data Retention Policy Expired",
    "113000": "Of Interest",
}


def rejection_note(images: Sequence[Dataset], title: str = "113001") -> Dataset:
    """A key object selection of all of them."""
    content = ko.KeyObjectSelection(
        document_title=sr.CodedConcept(title, "DCM", TITLES[title]), referenced_objects=images
    )
    return ko.KeyObjectSelectionDocument(
        evidence=images,
        content=content,
        series_instance_uid=generate_uid(),
        series_number=900,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="Another Maker",
    )
