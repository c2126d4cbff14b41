"""Which series had contrast medium, by what headers say, and what is refused where they don't."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from pydicom.dataset import Dataset

from operators.models.run_block import read_run
from operators.study.channels import contrast_said, match_channels

CARD = Path("bundles/zoo/brats_mri_segmentation/card.yaml")


def header(described: str, agent: str | None) -> Dataset:
    dataset = Dataset()
    dataset.SeriesDescription = described
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    if agent is not None:
        dataset.ContrastBolusAgent = agent
    return dataset


def match(*series: tuple[str, str | None]):
    """By the card of the brain tumour bundle; T2 and FLAIR are there and clear."""
    candidates = [
        SimpleNamespace(
            series_instance_uid=described, instances=[SimpleNamespace(header=header(described, a))]
        )
        for described, a in (*series, ("AX T2", None), ("AX FLAIR", None))
    ]
    run = read_run(yaml.safe_load(CARD.read_text())["run"])
    found = match_channels("brats", candidates, run.channels)
    return found if isinstance(found, str) else [s.series_instance_uid for s in found.channels]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("AX T1", "NONE"), ("AX T1 +C", None)),
        (("AX T1", "NO"), ("AX T1+C", "")),
        (("AX T1 pre", "None"), ("AX T1 contrast", None)),
        (("AX T1 w/o contrast", "N/A"), ("AX T1 POST", "Gadovist")),
        (("AX T1", None), ("AX T1", "Dotarem 10 ml")),
    ],
)
def test_before_and_after_contrast_are_told_by_agent_and_words(before, after):
    if before[0] == after[0]:
        after = (f"{after[0]} mprage", after[1])
    assert match(after, before) == [after[0], before[0], "AX T2", "AX FLAIR"]


@pytest.mark.parametrize("unclear", [("AX T1 +C", "NONE"), ("AX T1 post", None), ("T1 pre", "Gd")])
def test_a_series_that_may_have_had_contrast_stops_the_bundle_and_is_named(unclear):
    said = match(("AX T1 mprage", "Gadovist"), ("AX T1", "NONE"), unclear)

    assert said.startswith(f"series {unclear[0]} may be its channel T1c, but ContrastBolusAgent")


@pytest.mark.parametrize(
    ("described", "agent", "expected"),
    [
        ("AX T1", None, False),
        ("AX T1", "none", False),
        ("T1 non-contrast", None, False),
        ("T1 -C", None, False),
        ("T1 gad", None, True),
        ("T1", "Omnipaque 350", True),
        ("T1 w/o and with contrast", None, None),
        ("T1 w/wo contrast", None, None),
        ("T1 with fat sat", None, False),
    ],
)
def test_what_a_header_says_of_contrast(described, agent, expected):
    assert contrast_said(header(described, agent)) is expected
