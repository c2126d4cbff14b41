"""One page as an Encapsulated PDF, for readers and archives that show neither SEG nor SR.

What stands where is `page.py`'s. The same report gives the same bytes: the file bears
the record's time and no random number, and its typeface is our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import highdicom as hd
import numpy as np
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

from operators.evidence.common import (
    MANUFACTURER,
    SOFTWARE_VERSION,
    encoded_references,
    identify,
    keep_encoded,
    stamp,
)
from operators.evidence.comparison_text import digest
from operators.evidence.drawing import BOLD, REGULAR
from operators.evidence.encode import set_sequence
from operators.evidence.key_slices import key_picture, key_slices
from operators.evidence.page import PICTURES, Box, lay_out
from operators.job import Report

if TYPE_CHECKING:
    from fpdf import FPDF

TITLE = "AI measurements"
PICTURE_PX = 320  # so few that the letters in it can be read where it is 44 mm wide
_ASCENDER_EM = 0.928  # of the typeface


def build_pdf(report: Report, counts: np.ndarray, recorded_at: str) -> hd.base.SOPClass:
    """Draw and build the document of one report.

    Parameters
    ----------
    report : Report
        A segmentation with its findings; nothing need have been found.
    counts : numpy.ndarray
        From `operators.findings.tally`.
    recorded_at : str
        ``YYYYMMDDHHMMSS``; equal arguments give an equal document, with equal UIDs.

    Returns
    -------
    highdicom.base.SOPClass
        Encapsulated PDF Storage, explicit VR little endian.

    References
    ----------
    DICOM PS3.3 A.45.1, Encapsulated PDF IOD; C.24.1 and C.24.2.
    """
    segmentation = report.segmentation
    shown = key_slices(report, counts)[:PICTURES]
    outlined = [one.finding for one in shown]
    pictures = [(one, key_picture(report, one, outlined, PICTURE_PX)[0]) for one in shown]
    content = draw_pdf(lay_out(report, pictures, recorded_at), recorded_at)

    identity = identify(segmentation, "PDF", recorded_at, also=digest(report))
    document = hd.base.SOPClass(
        study_instance_uid=str(segmentation.volume.headers[0].StudyInstanceUID),
        series_instance_uid=identity.series_instance_uid,
        series_number=identity.series_number,
        sop_instance_uid=identity.sop_instance_uid,
        sop_class_uid=EncapsulatedPDFStorage,
        instance_number=1,
        modality="DOC",
        manufacturer=MANUFACTURER,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    stamp(document, identity, segmentation, recorded_at)
    document.ConversionType = "WSD"
    document.AcquisitionDateTime = None
    # Study and series stand on the page: who sends it out of the house must look at it first.
    document.BurnedInAnnotation = "YES"
    document.DocumentTitle = TITLE
    document.add_new("ConceptNameCodeSequence", "SQ", [])
    document.MIMETypeOfEncapsulatedDocument = "application/pdf"
    document.EncapsulatedDocumentLength = len(content)
    document.EncapsulatedDocument = content + b"\0" * (len(content) % 2)
    # Frames of one instance are one source.
    sources = dict.fromkeys(map(bytes, encoded_references(segmentation.volume.headers)))
    set_sequence(document, "SourceInstanceSequence", sources)
    keep_encoded(document)
    return document


def draw_pdf(boxes: Sequence[Box], recorded_at: str) -> bytes:
    """A PDF of one A4 page.

    Parameters
    ----------
    boxes : sequence of Box
        What it shows.
    recorded_at : str
        ``YYYYMMDDHHMMSS``: when it says that it was made.
    """
    from fpdf import FPDF

    pdf = FPDF(unit="mm", format="A4")
    pdf.set_auto_page_break(auto=False)
    pdf.set_margin(0)
    pdf.set_creation_date(datetime.strptime(recorded_at, "%Y%m%d%H%M%S").replace(tzinfo=UTC))
    pdf.set_producer(f"{MANUFACTURER} {SOFTWARE_VERSION}")
    pdf.set_title(TITLE)
    pdf.set_lang("en")
    pdf.add_font("sans", "", REGULAR)
    pdf.add_font("sans", "B", BOLD)
    pdf.add_page()
    for box in boxes:
        _draw(pdf, box)
    return bytes(pdf.output())


def _draw(pdf: FPDF, box: Box) -> None:
    if box.picture is not None:
        pdf.image(box.picture, box.left, box.top, box.width, box.height)
    elif not box.text:
        pdf.set_fill_color(*box.colour)
        pdf.rect(box.left, box.top, box.width, box.height, style="F")
    else:
        pdf.set_font("sans", "B" if box.bold else "", box.size_pt)
        pdf.set_text_color(*box.colour)
        baseline = box.top + _ASCENDER_EM * box.size_pt * 25.4 / 72
        pdf.text(box.left, baseline, box.text)
