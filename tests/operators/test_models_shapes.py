"""Each shape of a zoo bundle, on bundles whose answer is a formula, on a tilted grid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from operators.job import Volume
from operators.models.bundle import BundleUnfit, LoadedBundle, OutputUnfit, WeightsUnfit
from operators.models.card import CardInvalid, load_card
from operators.models.feed import ChannelsUnfit
from operators.models.inference_config import PackageMissing
from operators.reading import Reading
from tests import shapes
from tests.series import centred_grid, oblique

SHAPE_ZYX = (18, 31, 26)
AFFINE = centred_grid(SHAPE_ZYX, (2.5, 0.8, 1.3), oblique(23, -14) @ np.diag([-1.0, 1.0, 1.0]))


def volume(array: np.ndarray, **changes) -> Volume:
    return Volume(array, AFFINE, "HU", "1.2.3", (), "1.2.3.4", "any", **changes)


@pytest.fixture
def noise() -> np.ndarray:
    values = np.random.default_rng(16).normal(120, 200, SHAPE_ZYX)
    return values.round().astype(np.int16)


def run(folder: Path, given: Volume):
    return LoadedBundle(load_card(folder)).analyse(given)


def test_planes_overlap_and_each_is_cut_at_its_own_value(tmp_path, noise):
    found = run(shapes.planes(tmp_path / "planes"), volume(noise))

    assert found.overlapping and found.labels.dtype == np.uint8
    for number, cut in enumerate(shapes.CUTS, start=1):
        np.testing.assert_array_equal(found.mask(number), noise >= cut)
        np.testing.assert_array_equal(found.mask(number, 3), noise[3] >= cut)


def test_planes_that_are_cut_by_the_config_itself_are_the_same(tmp_path, noise):
    folder = shapes.planes(tmp_path / "planes")
    file = folder / "configs" / "inference.json"
    # Threshold before the inverse: nothing can be cut slab by slab.
    content = file.read_text().replace('"nearest_interp": false', '"nearest_interp": true')
    file.write_text(content)

    found = run(folder, volume(noise))

    for number, cut in enumerate(shapes.CUTS, start=1):
        np.testing.assert_array_equal(found.mask(number), noise >= cut)


@pytest.mark.parametrize("nearest", ["false", "true"])
def test_planes_are_cleaned_up_as_the_config_says(tmp_path, nearest):
    array = np.zeros(SHAPE_ZYX, np.int16)
    array[4:10, 5:20, 5:18] = 1000
    whole = array == 1000
    array[14, 27, 22] = 1000  # an island
    folder = shapes.planes(tmp_path / "planes", clean=True)
    file = folder / "configs" / "inference.json"
    file.write_text(
        file.read_text().replace('"nearest_interp": false', f'"nearest_interp": {nearest}')
    )

    found = run(folder, volume(array))

    for number in (1, 2, 3):
        np.testing.assert_array_equal(found.mask(number), whole)


@pytest.mark.parametrize("make", ["planes", "identity", "identity by windows", "slices"])
def test_scores_that_are_no_numbers_are_refused(tmp_path, noise, make):
    folder = {
        "planes": lambda to: shapes.planes(to),
        "identity": lambda to: shapes.identity(to, 3, shapes.TURN, "after"),
        "identity by windows": lambda to: shapes.identity(
            to, 3, shapes.TURN, "before", inferer=shapes.WINDOWS
        ),
        "slices": lambda to: shapes.slices(to),
    }[make](tmp_path / "bundle")
    loaded = LoadedBundle(load_card(folder))
    with torch.no_grad():
        loaded.network.bias[-1] = float("nan")

    with pytest.raises(OutputUnfit, match="NaN"):
        loaded.analyse(volume(noise))


def test_many_planes_are_refused_by_the_schema(tmp_path):
    folder = shapes.planes(tmp_path / "planes")
    card = folder / "card.yaml"
    card.write_text(card.read_text().replace("number: 3", "number: 65"))

    with pytest.raises(CardInvalid, match="64"):
        load_card(folder)


def test_a_loader_that_also_reads_a_label_gets_the_image(tmp_path, noise):
    folder = shapes.slices(tmp_path / "slices", sliced_by_config=True)
    file = folder / "configs" / "inference.json"
    file.write_text(
        file.read_text().replace(
            '{"_target_": "LoadImaged", "keys": "image"}',
            '{"_target_": "LoadImaged", "keys": ["label", "image"]}',
        )
    )

    found = run(folder, volume(noise))

    np.testing.assert_array_equal(found.mask(1), noise > shapes.CUTS[1])


def test_two_series_are_two_channels_in_the_order_of_the_card(tmp_path, noise):
    early = np.roll(noise, 5, axis=2)

    found = run(shapes.channels(tmp_path / "two"), volume(noise, channels=(early,)))

    np.testing.assert_array_equal(found.labels, noise > early)


def test_a_config_that_puts_its_images_together_by_itself_is_inverted_by_the_first(tmp_path, noise):
    other = np.random.default_rng(17).normal(120, 200, SHAPE_ZYX).round().astype(np.int16)

    found = run(shapes.phases(tmp_path / "phases"), volume(noise, channels=(other,)))

    np.testing.assert_array_equal(found.mask(1), noise > other)


def test_a_missing_channel_is_refused(tmp_path, noise):
    with pytest.raises(ChannelsUnfit, match=r"has 1 channels, it takes 2"):
        run(shapes.channels(tmp_path / "two"), volume(noise))


def test_a_box_lies_in_the_patient_on_a_tilted_grid(tmp_path):
    array = np.full(SHAPE_ZYX, -1000, np.int16)
    array[4:9, 10:21, 7:12] = 500

    found = run(shapes.detector(tmp_path / "boxes"), volume(array))

    assert isinstance(found, Reading) and found.detector
    (box,) = found.boxes
    middle = AFFINE @ (9.0, 15.0, 6.0, 1.0)
    np.testing.assert_allclose(box.centre_lps_mm, middle[:3], atol=1e-3)
    edges = np.array(box.edges_lps_mm)
    expected = AFFINE[:3, :3] * (5, 11, 5)  # columns: along i, j, k
    for edge in expected.T:  # Orientationd may have turned the axes round or swapped them
        assert min(np.abs(np.abs(edges) - np.abs(edge)).max(axis=1)) < 1e-3
    assert box.score == pytest.approx(0.75)


def test_a_detector_may_find_nothing(tmp_path):
    empty = volume(np.full(SHAPE_ZYX, -1000, np.int16))

    found = run(shapes.detector(tmp_path / "boxes"), empty)

    assert found.detector and found.boxes == ()


def test_boxes_below_the_smallest_score_are_left_out(tmp_path):
    card = load_card(shapes.detector(tmp_path / "boxes"))
    strict = replace(card, run=replace(card.run, min_score=0.8))

    found = LoadedBundle(strict).analyse(volume(np.full(SHAPE_ZYX, 500, np.int16)))

    assert found.boxes == ()


def test_a_classifier_gives_softmax_of_the_volume(tmp_path, noise):
    found = run(shapes.classifier(tmp_path / "classes"), volume(noise))

    (scores,) = found.scores
    logit = (noise.mean() - shapes.CLASS_CUT) / 10
    assert scores.k is None
    assert scores.scores[1] == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-4)
    assert sum(scores.scores) == pytest.approx(1)


def test_a_classifier_of_slices_answers_for_each(tmp_path):
    array = np.zeros(SHAPE_ZYX, np.int16) + (np.arange(18) * 10)[:, None, None].astype(np.int16)

    found = run(shapes.classifier(tmp_path / "classes", by_slice=True), volume(array))

    assert [scores.k for scores in found.scores] == list(range(18))
    dense = [scores.scores[1] > 0.5 for scores in found.scores]
    assert dense == [10 * k > shapes.CLASS_CUT for k in range(18)]


@pytest.mark.parametrize("sliced_by_config", [False, True])
def test_a_network_of_two_dimensions_runs_slice_by_slice(tmp_path, noise, sliced_by_config):
    folder = shapes.slices(tmp_path / "slices", sliced_by_config=sliced_by_config)

    found = run(folder, volume(noise))

    np.testing.assert_array_equal(found.labels, noise > shapes.CUTS[1])


def test_torchscript_runs_where_the_card_allows_it(tmp_path, noise):
    found = run(shapes.torchscript(tmp_path / "script"), volume(noise))

    np.testing.assert_array_equal(found.labels, noise > shapes.CUTS[1])


def test_torchscript_is_refused_where_the_card_does_not(tmp_path):
    folder = shapes.torchscript(tmp_path / "script", allowed=False)

    with pytest.raises(WeightsUnfit):
        LoadedBundle(load_card(folder))


def test_two_bundles_with_scripts_of_one_name_do_not_get_each_others(tmp_path):
    first = shapes.detector(tmp_path / "first")
    second = shapes.detector(tmp_path / "second")
    parts = second / "scripts" / "parts.py"
    parts.write_text(parts.read_text().replace("0.75", "0.9"))
    given = volume(np.full(SHAPE_ZYX, 500, np.int16))

    models = [LoadedBundle(load_card(folder)) for folder in (first, second, first)]
    scores = [model.analyse(given).boxes[0].score for model in models]

    assert scores == pytest.approx([0.75, 0.9, 0.75])


def test_a_bundle_that_can_not_run_here_says_why(tmp_path):
    card = load_card(shapes.planes(tmp_path / "planes"))
    unfit = replace(card, run=replace(card.run, unfit="it makes images"))

    with pytest.raises(BundleUnfit, match=r"can't run here: it makes images"):
        LoadedBundle(unfit)


def test_a_package_that_the_card_needs_is_named_before_anything_is_loaded(tmp_path):
    card = load_card(shapes.planes(tmp_path / "planes"))
    lacking = replace(card, run=replace(card.run, needs=("no_such_package_of_anyone",)))

    with pytest.raises(PackageMissing, match="'no_such_package_of_anyone', which is not installed"):
        LoadedBundle(lacking)


def test_classes_are_no_mask(tmp_path, noise):
    model = LoadedBundle(load_card(shapes.classifier(tmp_path / "classes")))

    with pytest.raises(OutputUnfit, match="gives classes, no mask"):
        model.segment(volume(noise))


FINER = shapes._step("Spacingd", pixdim=[0.65, 0.4, 1.25], mode="nearest")
MOVES = {
    "turned": shapes.TURN,
    "turned, finer": [*shapes.TURN, FINER],
    "padded": [*shapes.TURN, shapes._step("DivisiblePadd", k=16)],
    "cropped, padded": [
        *shapes.TURN,
        shapes._step("CropForegroundd", source_key="image", margin=1, allow_smaller=True),
        shapes._step("SpatialPadd", spatial_size=[40, 40, 40]),
    ],
    "transposed": [*shapes.LOAD, shapes._step("Transposed", indices=[0, 2, 1, 3])],
    "flipped": [*shapes.TURN, shapes._step("Flipd", spatial_axis=[1])],
    "rotated by a quarter": [*shapes.LOAD, shapes._step("Rotate90d", k=1, spatial_axes=[0, 2])],
}


@pytest.mark.parametrize("inferer", [shapes.SIMPLE, shapes.WINDOWS], ids=["simple", "windows"])
@pytest.mark.parametrize("decides", ["after", "before", "before, interpolated"])
@pytest.mark.parametrize("moves", MOVES)
def test_an_identity_network_returns_the_labels_voxel_for_voxel(tmp_path, moves, decides, inferer):
    labels = np.zeros(SHAPE_ZYX, np.int16)
    labels[2:16, 3:28, 2:24] = np.random.default_rng(7).integers(0, 6, (14, 25, 22))
    folder = shapes.identity(tmp_path / "identity", 5, MOVES[moves], decides, inferer)

    found = run(folder, volume(labels))

    np.testing.assert_array_equal(found.labels, labels)


def test_an_inverse_by_a_copy_of_the_steps_inverts_the_steps_that_ran(tmp_path, noise):
    folder = shapes.identity(tmp_path / "identity", 3, shapes.TURN, "before")
    file = folder / "configs" / "inference.json"
    content = file.read_text().replace('"@preprocessing"', '"$copy.deepcopy(@preprocessing)"')
    file.write_text(content.replace('"$import torch"', '"$import copy", "$import torch"'))
    labels = np.clip(noise, 0, 3)

    np.testing.assert_array_equal(run(folder, volume(labels)).labels, labels)


def test_a_network_of_an_older_monai_is_made_without_what_it_no_longer_takes(tmp_path):
    from monai.networks.nets import SwinUNETR

    network = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "feature_size": 12}
    content = shapes.config(
        {"_target_": "SwinUNETR", "img_size": 96, **network}, shapes.WINDOWS, shapes.TURN, []
    )
    torch.manual_seed(3)
    state = SwinUNETR(**network).state_dict()
    folder = shapes.write(tmp_path / "swin", content, state, labels=(1,))

    made = LoadedBundle(load_card(folder)).network.state_dict()

    assert all(torch.equal(made[name], value) for name, value in state.items())
