"""The zoo's cards: every label of the bundle, every code looked up where the card says."""

from __future__ import annotations

import json
import os
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydicom.sr._concepts_dict import concepts
from skimage.color import rgb2lab

from app.bundles.layout import check_labels
from operators.models.card import WeightsUnpinned, load_card, load_zoo_card, read_content

ZOO = Path(__file__).parent.parent.parent / "bundles" / "zoo"
SPLEEN, WHOLE = ZOO / "spleen_ct_segmentation", ZOO / "wholeBody_ct_segmentation"
ALL = sorted(file.parent for file in ZOO.glob("*/card.yaml"))
every_card = pytest.mark.parametrize("folder", ALL, ids=lambda folder: folder.name)

VERTEBRAE = [f"L{n}" for n in range(5, 0, -1)]
VERTEBRAE += [f"T{n}" for n in range(12, 0, -1)] + [f"C{n}" for n in range(7, 0, -1)]
# channel_def of the bundle's metadata.json, 0.2.5, without the background.
WHOLE_BODY = [
    *("spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach", "aorta"),
    *("inferior_vena_cava", "portal_vein_and_splenic_vein", "pancreas"),
    *("adrenal_gland_right", "adrenal_gland_left", "lung_upper_lobe_left", "lung_lower_lobe_left"),
    *("lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right"),
    *(f"vertebrae_{name}" for name in VERTEBRAE),
    *("esophagus", "trachea", "heart_myocardium", "heart_atrium_left", "heart_ventricle_left"),
    *("heart_atrium_right", "heart_ventricle_right", "pulmonary_artery", "brain"),
    *("iliac_artery_left", "iliac_artery_right", "iliac_vena_left", "iliac_vena_right"),
    *("small_bowel", "duodenum", "colon"),
    *(f"rib_{side}_{n}" for side in ("left", "right") for n in range(1, 13)),
    *(
        f"{name}_{side}"
        for name in ("humerus", "scapula", "clavicula", "femur", "hip")
        for side in ("left", "right")
    ),
    *("sacrum", "face"),
    *(
        f"{name}_{side}"
        for name in (
            *("gluteus_maximus", "gluteus_medius", "gluteus_minimus", "autochthon", "iliopsoas"),
        )
        for side in ("left", "right")
    ),
    "urinary_bladder",
]
# Codes that DICOM's CID 7192 does not hold: SNOMED CT's names by the source on the card.
BY_MAPPING = {
    "110765007": "Portal vein and splenic vein",
    "74281007": "Myocardium",
    "48535007": "First rib",
    "78247007": "Second rib",
    "25888004": "Third rib",
    "25523003": "Fourth rib",
    "15339008": "Fifth rib",
    "59558009": "Sixth rib",
    "24915002": "Seventh rib",
    "5953002": "Eighth rib",
    "22565002": "Ninth rib",
    "77644006": "Tenth rib",
    "58830002": "Eleventh rib",
    "43993008": "Twelfth rib",
    "206007": "Gluteus maximus muscle",
    "78333006": "Gluteus medius muscle",
    "75297007": "Gluteus minimus muscle",
    "244849004": "Deep muscle of back",
    "68455001": "Iliopsoas muscle",
}
# What the publisher's licence, or that of the training data, keeps from commercial use.
NON_COMMERCIAL = {
    "multi_organ_segmentation",  # LICENSE
    "renalStructures_CECT_segmentation",  # docs/data_license.txt: CC BY-NC-SA
    "vista2d",  # docs/README.md: weights CC-BY-NC-SA-4.0
    "vista3d",  # LICENSE: weights for research and evaluation only
}
CATEGORIES = {
    "91723000": "Anatomical Structure",
    "49755003": "Morphologically Abnormal Structure",
    "260787004": "Physical object",
}
SIDES = {"left": ("7771000", "Left"), "right": ("24028007", "Right")}


def bundle_of(card: str) -> str:
    """The zoo's bundle that a card is of: one has two cards, for two resolutions."""
    return card.removesuffix("_3mm")


def meanings(code: str, group: int) -> set[str]:
    """What pydicom's dictionary says a SNOMED CT code means in a context group of PS3.16."""
    entries = (entry[code] for entry in concepts["SCT"].values() if code in entry)
    return {meaning for meaning, groups in entries if group in groups}


def in_dictionary(code: str) -> set[str]:
    """Meanings of a code in all context groups together."""
    entries = (entry[code] for entry in concepts["SCT"].values() if code in entry)
    return {meaning for meaning, groups in entries if groups}


def test_the_whole_body_card_has_the_bundles_104_labels_in_their_order():
    segments = load_zoo_card(WHOLE).segments

    assert len(WHOLE_BODY) == 104
    assert [segment.number for segment in segments] == list(range(1, 105))
    assert [segment.name for segment in segments] == [name.lower() for name in WHOLE_BODY]


@every_card
def test_every_code_is_what_its_source_says(folder):
    for entry in read_content(folder)["segments"]:
        code, meaning = entry["type"]["value"], entry["type"]["meaning"]
        source = re.fullmatch(r"CID (\d+)( \(whole\))?", entry["source"])
        if source:
            assert meaning in meanings(code, int(source[1])), entry["name"]
        else:
            assert entry["source"].endswith("mapping") and not meanings(code, 7192)
            assert BY_MAPPING[code] == meaning, entry["name"]
        category = entry["category"]
        assert CATEGORIES[category["value"]] == category["meaning"]
        assert category["meaning"] in meanings(category["value"], 7150)


@every_card
def test_codes_of_classes_are_in_the_dictionary(folder):
    for entry in read_content(folder).get("run", {}).get("classes", []):
        if "code" in entry:
            assert entry["code"]["meaning"] in in_dictionary(entry["code"]["value"])


@every_card
def test_a_side_in_a_label_is_coded_and_no_other(folder):
    for segment in load_zoo_card(folder).segments:
        first = segment.label.split()[0].lower()
        if segment.laterality is not None:
            assert SIDES[first] == (segment.laterality.value, segment.laterality.meaning)
        elif first in SIDES:  # the code itself has the side, or means the whole
            assert first in segment.type.meaning.lower() or "atrial appendage" in segment.label
        if first in SIDES:
            assert (
                first in segment.name.split("_")
                or first[0] + "v" in segment.name.split("_")
                or (segment.name == "myocardium")
            )


@every_card
def test_a_label_has_one_meaning_and_one_colour(folder):
    segments = load_zoo_card(folder).segments

    assert len({segment.name for segment in segments}) == len(segments)
    assert len({segment.label for segment in segments}) == len(segments)
    colours = [segment.colour_rgb for segment in segments]
    if len(colours) > 1:
        lab = rgb2lab(np.array([colours]) / 255.0)[0]
        assert min(np.linalg.norm(a - b) for a, b in combinations(lab, 2)) > 15  # CIE76


@every_card
def test_a_card_says_what_is_published_and_where(folder):
    card = load_zoo_card(folder)

    assert card.published is not None and card.published.archive is not None
    archive = card.published.archive
    assert archive.path == f"{bundle_of(card.name)}_v{card.version}.zip"
    assert archive.url.endswith(f"/versions/{card.version}/files/{archive.path}")
    assert (archive.hash_type, len(archive.hash_val)) == ("sha1", 40)
    assert all(file.hash_type == "md5" for file in card.published.files)
    assert card.run.unfit or card.weights_file.suffix == ".pt"


def test_the_card_of_3_mm_has_the_labels_of_that_of_1_5_mm():
    fine, coarse = load_zoo_card(WHOLE), load_zoo_card(ZOO / f"{WHOLE.name}_3mm")

    assert coarse.segments == fine.segments and coarse.published == fine.published
    assert coarse.weights_file.name == "model_lowres.pt"
    assert coarse.run.switches == (("displayable_configs#highres", False),)


def test_what_forbids_commercial_use_says_so():
    forbidden = {folder.name for folder in ALL if load_zoo_card(folder).commercial_use == "no"}
    assert forbidden == NON_COMMERCIAL


@every_card
def test_a_card_agrees_with_the_publisher_where_a_checkout_is_given(folder):
    checkout = os.environ.get("RADLOOP_ZOO")
    if not checkout:
        pytest.skip("RADLOOP_ZOO names no checkout of Project-MONAI/model-zoo")
    theirs = Path(checkout) / "models" / bundle_of(folder.name)
    metadata = json.loads((theirs / "configs" / "metadata.json").read_text())
    archives = json.loads((theirs.parent / "model_info.json").read_text())
    (listed,) = theirs.glob("large_files.y*ml")
    large = {file["path"]: file for file in yaml.safe_load(listed.read_text())["large_files"]}
    card = load_zoo_card(folder)
    assert card.published is not None and card.published.archive is not None

    check_labels(card.name, metadata, read_content(folder), by_name=True)
    assert metadata["version"] == card.version
    published = archives[f"{bundle_of(card.name)}_v{card.version}"]
    assert published["checksum"] == card.published.archive.hash_val
    assert published["source"] == card.published.archive.url
    for file in card.published.files:
        assert large[file.path]["hash_val"] == file.hash_val
        assert file.url in ("", large[file.path]["url"])
    assert card.weights_file.relative_to(card.folder).as_posix() in large


def test_sides_are_coded_as_the_names_say_and_pairs_share_their_type():
    segments = {segment.name: segment for segment in load_zoo_card(WHOLE).segments}
    unsided = {"heart_atrium", "heart_ventricle", "lung_middle_lobe"}  # the type says the side
    for name, segment in segments.items():
        side = next((side for side in SIDES if side in name.split("_")), None)
        other = {"left": "right", "right": "left"}.get(side or "")
        if side is None:
            assert segment.laterality is None, name
        elif any(name.startswith(stem) for stem in unsided):
            assert segment.laterality is None and side in segment.type.meaning.lower(), name
        else:
            assert segment.laterality is not None
            assert (segment.laterality.value, segment.laterality.meaning) == SIDES[side]
            assert segment.type == segments[name.replace(side, str(other))].type, name
            assert segment.label.lower().startswith(side)


def test_vertebrae_and_ribs_are_coded_by_their_own_number():
    ordinals = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
    for segment in load_zoo_card(WHOLE).segments:
        stem, _, number = segment.name.rpartition("_")
        if stem == "vertebrae":
            assert segment.type.meaning == f"{number.upper()} vertebra"
        if stem.startswith("rib_"):
            assert segment.type.meaning.lower() == f"{ordinals.split()[int(number) - 1]} rib"


def test_colours_are_told_apart_and_stable():
    colours = [segment.colour_rgb for segment in load_zoo_card(WHOLE).segments]
    lab = rgb2lab(np.array([colours]) / 255.0)[0]

    assert min(np.linalg.norm(a - b) for a, b in combinations(lab, 2)) > 15  # CIE76
    (spleen,) = load_zoo_card(SPLEEN).segments
    assert spleen.colour_rgb == colours[0] == (150, 105, 165)


@pytest.mark.parametrize("folder", [SPLEEN, WHOLE], ids=lambda folder: folder.name)
def test_a_zoo_card_names_the_publishers_hash_and_pins_nothing_itself(folder):
    card = load_zoo_card(folder)

    assert card.published and card.published.files[0].path == "models/model.pt"
    for file in card.published.files:
        assert file.hash_type == "md5" and len(file.hash_val) == 32
        assert file.url.startswith("https://")
    assert card.weights_sha256 == "" and card.version == card.published.version
    with pytest.raises(WeightsUnpinned, match="sha256 is null"):
        load_card(folder)
