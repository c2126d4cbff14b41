"""Which patients are trained on, and that image and outline lie on each other."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from bundles.medsam_lite_ct_mr.scripts.crops import (
    Draw,
    measured_crops,
    read_manifest,
    sample,
    show,
    training_crops,
    write_manifest,
)
from bundles.medsam_lite_ct_mr.scripts.volumes import (
    Labelled,
    Source,
    Structure,
    abdomen,
    head_neck,
    hippocampus,
    sarcoma,
    trained_on,
)
from operators.models.medsam.picture import CropRule

RULE = CropRule(small_share=0.25, factor=2.0, coarse_pixel_mm=0.99, coarse_factor=1.5)


def made_source(n: int) -> Source:
    """A volume with a bar left of the middle and a block right of it."""
    labels = np.zeros((6, 30, 40), np.uint8)
    labels[1:5, 10:20, 4:8] = 1
    labels[2:4, 5:15, 24:36] = 2
    known = (Structure("bar", (1,)), Structure("block", (2,)))

    def read() -> Labelled:
        return Labelled("made", f"p{n}", f"c{n}", labels * 100.0, labels, 2.0, (0.0, 200.0), known)

    return Source("made", f"p{n}", f"c{n}", read)


def made_head_neck(root: Path) -> None:
    """One patient per list, in RAS as the set is; the parotids differ in size."""
    folder = root / "openkbp-hn-ct"
    (folder / "ct").mkdir(parents=True)
    (folder / "label").mkdir()
    labels = np.zeros((20, 16, 5), np.uint8)  # x to the right, y to the front, z up
    labels[14:18, 6:10, 1:4] = 3
    labels[2:5, 6:10, 1:4] = 4
    for case in ("a", "b", "c"):
        for part, array in (("ct", labels.astype(np.int16) * 10), ("label", labels)):
            image = nibabel.Nifti1Image(array, np.diag([4.0, 4.0, 2.5, 1.0]))
            nibabel.save(image, folder / part / f"{case}.nii.gz")
    splits = {"train": ["a"], "validation": ["b"], "test": ["c"]}
    (folder / "splits.json").write_text(json.dumps(splits))
    outlined = {case: ["parotid_right", "parotid_left"] for case in ("a", "b", "c")}
    (folder / "labelled.json").write_text(json.dumps(outlined))


def test_left_is_at_the_end_of_a_row_and_front_in_the_first_rows(tmp_path: Path) -> None:
    made_head_neck(tmp_path)

    volume = next(head_neck(tmp_path, "train")).read()

    right, left = (np.argwhere(volume.mask(item)).mean(axis=0) for item in volume.structures)
    assert [item.name for item in volume.structures] == ["parotid_right", "parotid_left"]
    assert right[2] < left[2] and right[1] == left[1]
    assert volume.pixel_mm == 4.0 and volume.window == (-160.0, 240.0)
    assert np.array_equal(volume.array, volume.labels * 10.0)


def test_training_crops_are_balanced_repeatable_and_hold_their_structure() -> None:
    sources = [made_source(n) for n in range(8)]

    specs = list(training_crops(sources, 3, seed=1))

    kinds = [spec.structure for spec in specs]
    assert kinds.count("bar") == kinds.count("block") == 3
    assert specs == list(training_crops(sources, 3, seed=1))
    assert specs != list(training_crops(sources, 3, seed=2))
    assert {spec.mirrored for spec in specs} == {False, True}
    for spec in specs:
        shown = show(made_source(int(spec.patient[1:])).read(), spec)
        x0, y0, x1, y1 = spec.box
        rows, columns = np.nonzero(shown.mask)
        assert x0 <= columns.min() and columns.max() + 1 <= x1
        assert y0 <= rows.min() and rows.max() + 1 <= y1
        assert spec.crop.of(shown.mask).sum() == shown.mask.sum()
        # Image and outline are mirrored together.
        assert set(shown.plane[shown.mask]) == {100.0 if spec.structure == "bar" else 200.0}


def test_one_more_case_changes_no_other_case_s_boxes() -> None:
    few = list(measured_crops([made_source(0), made_source(1)], {"made": Draw(2, 1)}, RULE, 3))
    more = list(measured_crops([made_source(n) for n in (7, 0, 1)], {"made": Draw(2, 1)}, RULE, 3))

    assert few == more[2:] and len(few) == 4


def test_a_manifest_is_drawn_once_and_read_back(tmp_path: Path) -> None:
    specs = list(training_crops([made_source(n) for n in range(4)], 2, seed=1))

    written = write_manifest(specs, tmp_path / "list.json")
    again = write_manifest([], tmp_path / "list.json")

    assert written == again == read_manifest(tmp_path / "list.json") == specs
    assert len({spec.key for spec in specs}) == len(specs)


def test_a_sample_keeps_the_order() -> None:
    specs = list(training_crops([made_source(n) for n in range(8)], 4, seed=1))

    found = sample(specs, 5, seed=0)

    assert [specs.index(spec) for spec in found] == sorted(specs.index(spec) for spec in found)
    assert sample(specs, 99, seed=0) == specs


@pytest.mark.data
def test_no_patient_of_a_test_or_validation_list_is_trained_on(data_dir: Path) -> None:
    patients = {
        split: {source.patient for source in trained_on(data_dir, split)}
        for split in ("train", "validation", "test")
    }

    assert {name: len(found) for name, found in patients.items()} == {
        "train": 161 + 108,
        "validation": 20 + 17,
        "test": 24 + 30,
    }
    assert not patients["train"] & (patients["test"] | patients["validation"])
    assert not patients["validation"] & patients["test"]


@pytest.mark.data
def test_anatomy_lies_as_the_data_s_readme_says(data_dir: Path) -> None:
    volume = next(head_neck(data_dir, "test")).read()

    at = {item.name: np.argwhere(volume.mask(item)).mean(axis=0) for item in volume.structures}

    assert at["parotid_left"][2] > at["parotid_right"][2]
    assert at["mandible"][1] < at["spinal_cord"][1]
    assert at["brainstem"][0] > at["spinal_cord"][0]


@pytest.mark.data
def test_the_front_of_a_hippocampus_is_in_front(data_dir: Path) -> None:
    volume = next(hippocampus(data_dir, "test")).read()

    front, back = (np.argwhere(volume.mask(item)).mean(axis=0) for item in volume.structures[:2])

    assert front[1] < back[1]


@pytest.mark.data
def test_the_abdomen_s_labels_lie_on_its_images(data_dir: Path) -> None:
    volume = next(abdomen(data_dir)).read()

    liver = volume.mask(next(item for item in volume.structures if item.name == "liver"))

    # Both figures are the README's of that set.
    assert liver.sum() * 0.9765625**2 * 2.0 / 1000 == pytest.approx(699.44, abs=0.01)
    assert volume.array[liver].mean() == pytest.approx(89, abs=1)


@pytest.mark.data
@pytest.mark.parametrize(("modality", "ml"), [("CT", 53.3), ("MR_T1", 53.3), ("PET", 53.2)])
def test_a_sarcoma_s_mask_has_its_volume_on_every_grid(data_dir: Path, modality, ml) -> None:
    volume = next(sarcoma(data_dir, modality)).read()

    mask = volume.mask(volume.structures[0])

    # Within 2 % in PET, says that README, whose pixels are five times coarser.
    assert mask.any(axis=(1, 2)).sum() == 16
    assert mask.sum() * volume.pixel_mm**2 * 3.27 / 1000 == pytest.approx(ml, rel=0.021)
    if modality == "PET":
        assert volume.array[mask].mean() > 3 * volume.array[~mask].mean()
