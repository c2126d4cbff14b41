"""Other people's programs as judges of what we write; each is skipped, with its reason, if absent.

The exit status of dciodvfy and of PixelMed's validator says nothing about the
object, so what they print is read.
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  (its own documentation's name)

from operators.evidence.result import SCHEMA_FILE

PIXELMED_JAR = Path("/usr/share/java/pixelmed.jar")
SECONDS = 300


def _program(name: str, package: str) -> str:
    """Path of a program: of this environment first, then of the system."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed ({package})")
    return found


def _output(*command: str | Path) -> tuple[int, str]:
    """Exit status, and standard output and error together."""
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=SECONDS,
        check=False,
    )
    return done.returncode, done.stdout.decode("utf-8", "replace")


def dciodvfy_errors(path: Path) -> Counter[str]:
    """Lines of dciodvfy (dicom3tools) that begin with "Error", with their counts."""
    _, text = _output(_program("dciodvfy", "Debian: dicom3tools"), path)
    assert text.strip(), "dciodvfy did not name the object's kind: it read nothing"
    return Counter(line for line in text.splitlines() if line.startswith("Error"))


def pixelmed_sr_errors(path: Path) -> list[str]:
    """Errors of PixelMed's SR validator, which must have got to its end.

    Debian's own script aborts at an XPath limit, so the limits are lifted here.
    """
    if not PIXELMED_JAR.exists():
        pytest.skip("PixelMed is not installed (Debian: libpixelmed-java)")
    limits = [f"-Djdk.xml.xpath{what}Limit=0" for what in ("ExprOp", "TotalOp", "ExprGrp")]
    # One short run on a machine that runs others beside it.
    limits += ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    validator = "com.pixelmed.validate.DicomSRValidator"
    java = _program("java", "Debian: default-jre-headless")
    _, text = _output(java, *limits, "-cp", PIXELMED_JAR, validator, path)
    lines = text.splitlines()
    assert "Root Template Validation Complete" in lines, text
    assert "IOD validation complete" in lines, text
    return [line for line in lines if "Error" in line]


def dsrdump(path: Path) -> str:
    """The document as dcmtk's dsrdump prints it, texts in full."""
    status, text = _output(_program("dsrdump", "Debian: dcmtk"), "+Pl", path)
    assert status == 0, text
    return text


def tid1500reader(path: Path, folder: Path) -> dict[str, Any]:
    """The measurements of an SR as dcmqi understands them."""
    file = folder / f"{path.stem}.json"
    program = _program("tid1500reader", "PyPI: dcmqi")
    status, text = _output(program, "--inputDICOM", path, "--outputMetadata", file)
    assert status == 0, text
    return json.loads(file.read_text())


def dcmdump_value(path: Path, keyword: str) -> bytes:
    """The bytes of a text value as dcmtk finds them, in the file's own character set."""
    program = _program("dcmdump", "Debian: dcmtk")
    done = subprocess.run(
        [program, "+P", keyword, str(path)], capture_output=True, timeout=SECONDS, check=True
    )
    return done.stdout.split(b"[", 1)[1].rsplit(b"]", 1)[0]


@functools.cache
def _result_schema() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_text()))


def result_errors(result: dict[str, Any]) -> list[str]:
    """Where a `result.json` is not what its published schema says."""
    return [f"{e.json_path}: {e.message}" for e in _result_schema().iter_errors(result)]


def segments_by_dcmqi(path: Path, folder: Path) -> dict[int, np.ndarray]:
    """Voxels of every segment as dcmqi places them.

    Returns
    -------
    dict
        Segment number → LPS mm of the centres of its voxels, shape (n, 3).
    """
    places = {}
    for number, (mask, lps_from_index) in grids_by_dcmqi(path, folder).items():
        index = np.argwhere(mask)[:, ::-1]
        places[number] = index @ lps_from_index[:3, :3].T + lps_from_index[:3, 3]
    return places


def grids_by_dcmqi(path: Path, folder: Path) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Every segment as dcmqi writes it: on the slices from its own first to last, at least.

    Returns
    -------
    dict
        Segment number → mask (z, y, x), bool, and its affine (i, j, k, 1) → LPS mm.
    """
    folder.mkdir()
    program = _program("segimage2itkimage", "PyPI: dcmqi")
    status, text = _output(
        program, "--inputDICOM", path, "--outputDirectory", folder, "--outputType", "nrrd"
    )
    assert status == 0, text
    found = {}
    for file in folder.glob("*.nrrd"):
        image = sitk.ReadImage(str(file))
        affine = np.eye(4)
        affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
        affine[:3, 3] = image.GetOrigin()
        found[int(file.stem)] = sitk.GetArrayFromImage(image) != 0, affine
    return found
