"""A reader opens the demo study: real Orthanc, `radloop viewer`, OHIF in Chromium.

The patient is the demo's atlas itself, unbent, and the masks are its organs, so
that it is known what belongs where; SEG and SR come from the same writers as any
result. Every second slice, for the sake of time.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from app.demo.ct_series import SeriesIdentity, write_ct_series
from app.demo.orthanc import find_orthanc, running_orthanc
from app.demo.patient import AIR_HU, ATLAS_DIR, load_atlas
from app.viewer.fetch import is_fetched
from operators.evidence.write import write_evidence
from operators.findings.measure import measure
from operators.job import ModelIdentity, Segment, Segmentation
from operators.measured import RuleResult
from operators.models.card import load_card
from operators.study.read import read_drop
from operators.volume.build import build_volumes

ROOT = Path(__file__).parents[2]
OHIF = ROOT / "var" / "ohif"
BUNDLE = ROOT / "bundles" / "head_neck_oar_ct"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-dev-shm-usage",
]
NO_TOUR = 'localStorage.setItem("shownTours", JSON.stringify(["basicViewerTour"]))'
STUDY, SERIES, FRAME = "2.25.11", "2.25.12", "2.25.13"
THIN = 2
WAIT_MS = 60_000
# OHIF merges what it finds in a group, so text of rules must not upset it.
RULE = RuleResult(
    rule="made_up/large",
    citation="Nobody N. No study; page 1, Table 1",
    severity="HIGH",
    accepted_by="",
    statement="It is large.",
    differentials=("Largeness",),
    recommendations=("Look again.",),
)

pytestmark = [
    pytest.mark.orthanc,
    pytest.mark.skipif(find_orthanc() is None, reason="Orthanc is not installed"),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: make system"),
    pytest.mark.skipif(not is_fetched(OHIF), reason="no OHIF build in var/ohif: make ohif"),
]


@dataclass(frozen=True)
class Scene:
    """What is in Orthanc, and the truth about it.

    Attributes
    ----------
    labels : numpy.ndarray, shape (z, y, x), uint8
        True organs.
    pixel_mm : float
        Rows and columns are equally far apart.
    segments : tuple of Segment
        What the labels stand for.
    files : list of Path
        The series, SEG and SR.
    """

    labels: np.ndarray
    pixel_mm: float
    segments: tuple[Segment, ...]
    files: list[Path]


def make_scene(folder: Path) -> Scene:
    """A series of the demo's mean patient, with the SEG and SR of perfect masks."""
    atlas = load_atlas(ATLAS_DIR)
    _, rows, columns = atlas.hu.shape
    before = (columns - rows) // 2
    # Square, since how the viewer scales other images was not looked at.
    square = ((0, 0), (before, columns - rows - before), (0, 0))
    hu = np.pad(atlas.hu, square, constant_values=AIR_HU)[::THIN]
    labels = np.ascontiguousarray(np.pad(atlas.labels, square)[::THIN])
    step_zyx, origin_zyx = atlas.spacing_zyx_mm, atlas.origin_zyx_mm
    affine = np.diag([step_zyx[2], step_zyx[1], step_zyx[0] * THIN, 1.0])
    affine[:3, 3] = origin_zyx[2], origin_zyx[1] - before * step_zyx[1], origin_zyx[0]
    identity = SeriesIdentity(
        patient_name="DEMO^SYNTHETIC",
        patient_id="RADLOOP-DEMO-001",
        study_instance_uid=STUDY,
        series_instance_uid=SERIES,
        frame_of_reference_uid=FRAME,
        study_description="Synthetic head and neck CT",
        series_description="SYNTHETIC CT, not a person",
        image_comments="Synthetic",
        study_date="20260101",
        study_time="120000",
        body_part="HEADNECK",
        manufacturer="radloop",
        model="demo patient",
    )
    write_ct_series(folder / "ct", np.rint(hu).astype(np.int16), affine, identity)
    volume = build_volumes(read_drop(folder / "ct").studies[0].series[0])[0]
    card = load_card(BUNDLE)
    model = ModelIdentity(
        name=card.name,
        version=card.version,
        weights_sha256=card.weights_sha256,
        manufacturer=card.manufacturer,
        runtime="none: true masks",
    )
    segmentation = Segmentation(
        volume=replace(volume, bundle=card.name),
        labels=labels,
        segments=card.segments,
        model=model,
    )
    report = measure(segmentation)
    ruled = tuple(replace(finding, rules=(RULE,)) for finding in report.findings)
    write_evidence(replace(report, findings=ruled), folder / "evidence", "20260101130000")
    files = [*(folder / "ct").rglob("*.dcm"), *(folder / "evidence").glob("*.dcm")]
    return Scene(labels, float(affine[0, 0]), card.segments, sorted(files))


@contextmanager
def viewer(orthanc_url: str, folder: Path) -> Iterator[str]:
    """`radloop viewer` as a user starts it; the link that it prints; ended with Ctrl-C."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RADLOOP_")}
    arguments = ["--port", "0", "--orthanc", orthanc_url, "--ohif", str(OHIF), "--study", STUDY]
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli.main", "viewer", *arguments],
        cwd=folder,
        env={**clean, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = ""
    try:
        assert process.stdout is not None
        while "Ctrl-C" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        link = re.search(r"http\S+/viewer\?StudyInstanceUIDs=\S+", said)
        assert link and "CT SEG SR" in said, said
        yield link[0]
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=20)
        assert process.returncode == 0 and "Traceback" not in rest, rest
        assert rest.strip() == "stopped"
    finally:
        process.kill()
        process.wait()


class Browser:
    """One page in Chromium, and everything that went wrong on it."""

    def __init__(self, page: Any, link: str, shots: Path) -> None:
        self.page, self.link, self._shots = page, link, shots
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self.dialogs: list[str] = []
        origin = link.split("/viewer")[0]
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self._note(request.url, origin))
        page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.accept()))

    def _note(self, url: str, origin: str) -> None:
        if not url.startswith((origin, "blob:", "data:")):
            self.foreign.append(url)

    def cy(self, name: str, **options: Any) -> Any:
        """By OHIF's own test marks."""
        return self.page.locator(f"[data-cy={name}]", **options)

    def shot(self, name: str) -> Image.Image:
        """A screenshot of the page without the mouse on anything."""
        self.page.mouse.move(3, 3)
        self.page.wait_for_timeout(1000)
        path = self._shots / f"{name}.png"
        self.page.screenshot(path=path)
        return Image.open(path).convert("RGB")

    def toasts(self) -> list[str]:
        """What OHIF complains of."""
        return list(self.page.locator("[data-sonner-toast]").all_inner_texts())

    def slice_index(self) -> int:
        """k of the slice in view; InstanceNumber counts them from 1 at the feet."""
        found = re.search(r"I:\s*(\d+)", self.cy("viewport-overlay-bottom-right").inner_text())
        assert found
        return int(found[1]) - 1

    def place(self, i: int, j: int, shape_yx: tuple[int, int], pixel_mm: float) -> tuple[int, int]:
        """Page pixel of an image pixel: the image is centred, and as large as fits."""
        box = self.page.locator("canvas.cornerstone-canvas").bounding_box()
        rows, columns = shape_yx
        scale = min(box["width"], box["height"]) / (max(rows, columns) * pixel_mm)
        x = box["x"] + box["width"] / 2 + (i - (columns - 1) / 2) * pixel_mm * scale
        y = box["y"] + box["height"] / 2 + (j - (rows - 1) / 2) * pixel_mm * scale
        return round(x), round(y)


@contextmanager
def chromium(link: str, shots: Path) -> Iterator[Browser]:
    """Chromium with the study's page asked for."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        process = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            context = process.new_context(viewport={"width": 1400, "height": 900})
            context.add_init_script(NO_TOUR)
            page = context.new_page()
            page.set_default_timeout(WAIT_MS)
            browser = Browser(page, link, shots)
            page.goto(link)
            try:
                yield browser
            except BaseException:
                page.screenshot(path=shots / "failed.png")
                raise
        finally:
            process.close()


def nearest(colour: tuple[int, int, int], segments: tuple[Segment, ...]) -> str | None:
    """The segment whose tint a pixel has; None on grey. A fill is half colour, half image."""
    if max(colour) - min(colour) < 25:
        return None
    tint = np.array(colour) - np.mean(colour)

    def likeness(segment: Segment) -> float:
        own = np.array(segment.colour_rgb) - np.mean(segment.colour_rgb)
        return float(tint @ own / np.linalg.norm(tint) / np.linalg.norm(own))

    return max(segments, key=likeness).name


def test_a_reader_sees_names_colours_and_sides_and_opens_the_measurements(tmp_path: Path) -> None:
    from orthanc_api_client import OrthancApiClient

    scene = make_scene(tmp_path)
    slices, rows, columns = scene.labels.shape
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        client = OrthancApiClient(orthanc.url)
        for file in scene.files:
            client.upload_file(str(file))
        with viewer(orthanc.url, tmp_path) as link, chromium(link, tmp_path) as browser:
            overlay = browser.cy("viewport-overlay-bottom-right", has_text=f"/{slices})")
            overlay.wait_for()
            assert browser.page.evaluate("window.crossOriginIsolated") is True

            browser.cy("study-browser-thumbnail-no-image", has_text="SEG").dblclick()
            browser.cy("yes-hydrate-btn").click()
            browser.cy("panelSegmentation-btn").click()
            browser.cy("data-row-title").nth(len(scene.segments) - 1).wait_for()
            names = browser.cy("data-row-title").all_inner_texts()
            colours = browser.cy("data-row-colorhex").evaluate_all(
                "dots => dots.map(dot => getComputedStyle(dot).backgroundColor)"
            )
            assert names == [segment.label for segment in scene.segments]
            assert colours == [
                f"rgb({', '.join(map(str, segment.colour_rgb))})" for segment in scene.segments
            ]

            browser.cy("data-row", has_text="Right parotid").click()
            picture = browser.shot("segments")
            k = browser.slice_index()
            for segment in scene.segments[2:4]:  # the parotids
                mask = scene.labels[k] == segment.number
                assert mask.any(), f"{segment.name} is not on slice {k}"
                depth = ndimage.distance_transform_edt(mask)
                j, i = np.unravel_index(int(depth.argmax()), mask.shape)
                x, y = browser.place(int(i), int(j), (rows, columns), scene.pixel_mm)
                middle, _ = browser.place(columns // 2, 0, (rows, columns), scene.pixel_mm)
                assert nearest(picture.getpixel((x, y)), scene.segments) == segment.name
                # Radiological view: the patient's right is on the viewer's left.
                assert (x < middle) is (segment.name == "parotid_right")

            browser.cy("study-browser-thumbnail-no-image", has_text="SR").dblclick()
            browser.page.locator("tspan", has_text="Volume").first.wait_for()
            browser.shot("measurements")
            drawn = browser.page.locator("tspan").all_text_contents()
            # OHIF shows five numbers of a structure, and no more.
            for shown in (r"Volume: \d+\.\d+ mL", r"L: : \d+\.\d+ mm", r"Attenuation .*"):
                assert any(re.fullmatch(shown, text) for text in drawn), drawn
            assert browser.toasts() == [] and browser.errors == []

            save_a_length(browser)
            assert len(browser.dialogs) == 1 and browser.dialogs[0].startswith("RL-1520")
            browser.shot("refused")
            assert browser.foreign == []  # nothing of the study went to anybody else
        assert len(client.studies.get_all_ids()) == 1
        study = client.studies.lookup(STUDY)
        assert len(client.studies.get_series_ids(study)) == 3  # CT, SEG, SR: nothing was saved


def save_a_length(browser: Browser) -> None:
    """Draw a line on the image and try to store it as an SR."""
    browser.cy("study-browser-thumbnail").dblclick()
    browser.page.wait_for_timeout(1000)
    browser.cy("Length-btn").first.click()
    mouse = browser.page.mouse
    mouse.move(600, 400)
    mouse.down()
    mouse.move(700, 450, steps=5)
    mouse.up()
    browser.cy("prompt-begin-tracking-yes-btn").click()
    browser.cy("trackedMeasurements-btn").click()
    browser.page.get_by_text("Create SR").first.click()
    browser.page.get_by_role("button", name="Save").click()
    browser.page.locator("[data-sonner-toast]").first.wait_for()
