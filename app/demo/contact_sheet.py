"""The pictures of docs/evidence.md, made anew: key images and PDF of the demo patient.

`python -m app.demo.contact_sheet` makes the patient, analyses it as `radloop run
--key-images --pdf` does, and renders what was written, from the DICOM files. It needs the `dev`
extra, whose PDF renderer is another program than the one that wrote the PDF.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

DOCS = Path(__file__).resolve().parents[2] / "docs" / "images"
MAX_BYTES = 1_000_000
_PDF_SCALE = 1.6  # of 72 dots per inch
_WIDTH_PX = 1320


def main() -> None:
    """Write the pictures; a folder may be named on the command line."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS
    with tempfile.TemporaryDirectory() as made:
        for path in write_pictures(_evidence(Path(made)), folder):
            print(path)


def _evidence(folder: Path) -> list[dict[str, Any]]:
    """Analyse the demo patient; entries of `evidence` in result.json."""
    from app.demo.patient import make_demo_patient
    from app.oneshot import analyse_folder

    patient = make_demo_patient(folder / "patient", seed=1)
    result = analyse_folder(patient.dicom_dir, folder / "out", extra=("key_images", "pdf"))
    return [item for entry in result["results"] for item in entry["evidence"]]


def write_pictures(evidence: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Render key images and PDFs as PNG.

    Parameters
    ----------
    evidence : sequence of dict
        Entries of `evidence` in result.json: `kind` and `path` are read.
    folder : Path
        Made if it is not there.

    Returns
    -------
    list of Path
        ``key_images_1.png``…, ``report_1.png``…; each below `MAX_BYTES`.
    """
    from pydicom import dcmread

    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for kind, name in (("KEY_IMAGE", "key_images"), ("PDF", "report")):
        paths = [item["path"] for item in evidence if item["kind"] == kind]
        for number, path in enumerate(paths, start=1):
            dataset = dcmread(path)
            picture = (
                Image.fromarray(dataset.pixel_array)
                if kind == "KEY_IMAGE"
                else rendered(encapsulated(dataset), _PDF_SCALE)
            )
            written.append(_small_png(picture, folder / f"{name}_{number}.png"))
    return written


def encapsulated(dataset: Any) -> bytes:
    """The document in an Encapsulated PDF, without its padding."""
    return bytes(dataset.EncapsulatedDocument[: dataset.EncapsulatedDocumentLength])


def rendered(pdf: bytes, scale: float) -> Image.Image:
    """The first page of a PDF as PDFium draws it, RGB, `scale` times 72 dots per inch."""
    from pypdfium2 import PdfDocument

    document = PdfDocument(pdf)
    try:
        return Image.fromarray(np.array(document[0].render(scale=scale).to_pil().convert("RGB")))
    finally:
        document.close()


def _small_png(picture: Image.Image, path: Path) -> Path:
    """Not wider than a page of docs shows; all colours, since they tell structures apart."""
    if picture.width > _WIDTH_PX:
        height = round(picture.height * _WIDTH_PX / picture.width)
        picture = picture.resize((_WIDTH_PX, height), Image.Resampling.LANCZOS)
    picture.save(path, optimize=True)
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes, limit {MAX_BYTES}")
    return path


if __name__ == "__main__":
    main()
