"""The table's numbers against numbers that can be had without it."""

from __future__ import annotations

import hashlib
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from bundles.medsam_lite_ct_mr.scripts import table
from bundles.medsam_lite_ct_mr.scripts.confidence import calibration_error, fit
from bundles.medsam_lite_ct_mr.scripts.evaluate import confidence_block, measured_part
from bundles.medsam_lite_ct_mr.scripts.measure import Score, dice, ellipse, filled_box, otsu
from bundles.medsam_lite_ct_mr.scripts.pages import CALIBRATION, TABLE, pin_card, replace_part
from bundles.medsam_lite_ct_mr.scripts.paired import bootstrap, by_unit, difference
from operators.models.card import WeightsBase, load_card

BUNDLE = Path(__file__).parent.parent.parent / "bundles" / "medsam_lite_ct_mr"
METHODS = dict.fromkeys(table.METHODS, 0.0)


def scores(patients: dict[str, list[float]], method: str, structure: str = "s") -> list[Score]:
    return [
        Score("set", who, structure, f"{who}{n}", method, value, 0.5)
        for who, values in patients.items()
        for n, value in enumerate(values)
    ]


def test_a_patient_counts_once_however_many_crops_it_has() -> None:
    found = by_unit(scores({"a": [0.2, 0.4, 0.6], "b": [1.0]}, "m"), "m")

    assert found == pytest.approx({"a": 0.4, "b": 1.0})


def test_one_patient_is_counted_by_structure() -> None:
    own = [*scores({"a": [0.2, 0.4]}, "m", "liver"), *scores({"a": [0.9]}, "m", "spleen")]

    assert by_unit(own, "m") == pytest.approx({"liver": 0.3, "spleen": 0.9})


def test_the_bootstrap_is_that_of_scipy() -> None:
    values = np.random.default_rng(3).beta(5, 2, 24)

    found = bootstrap(values)
    known = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", random_state=0
    ).confidence_interval

    assert found.mean == values.mean()
    assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=0.004)


def test_a_constant_difference_has_no_width_and_counts_every_patient() -> None:
    patients = {"a": [0.5, 0.7], "b": [0.9], "c": [0.1]}
    worse = {who: [value - 0.1 for value in values] for who, values in patients.items()}

    found = difference([*scores(patients, "x"), *scores(worse, "y")], "x", "y")

    assert (found.interval.low, found.interval.high) == pytest.approx((0.1, 0.1))
    assert (found.wins, found.losses, found.n) == (3, 0, 3)


def test_losses_are_counted_as_wins_are() -> None:
    both = [*scores({"a": [0.5], "b": [0.5]}, "x"), *scores({"a": [0.6], "b": [0.5]}, "y")]

    found = difference(both, "x", "y")

    assert (found.wins, found.losses, found.n) == (0, 1, 2)


def test_box_and_ellipse_have_the_areas_of_geometry() -> None:
    plane = np.zeros((400, 400))
    box = (20.25, 40.25, 320.25, 240.25)

    assert filled_box(plane, box).sum() == 300 * 200
    assert ellipse(plane, box).sum() == pytest.approx(np.pi / 4 * 300 * 200, rel=0.002)


def test_the_ellipse_in_a_tight_box_of_a_disc_is_the_disc() -> None:
    y, x = np.mgrid[:101, :101]
    disc = (x - 50) ** 2 + (y - 50) ** 2 <= 40.5**2

    assert dice(ellipse(disc, (9.5, 9.5, 91.5, 91.5)), disc) > 0.98


@pytest.mark.parametrize("values", [(0.0, 100.0), (100.0, 0.0)])
def test_otsu_finds_a_bright_and_a_dark_disc(values) -> None:
    around, inside = values
    y, x = np.mgrid[:60, :60]
    disc = (x - 30) ** 2 + (y - 30) ** 2 <= 15**2
    plane = np.where(disc, inside, around)

    assert np.array_equal(otsu(plane, (13.0, 13.0, 48.0, 48.0)), disc)


def test_otsu_of_one_grey_is_the_box() -> None:
    plane = np.ones((10, 10))

    assert np.array_equal(otsu(plane, (2.0, 2.0, 6.0, 6.0)), filled_box(plane, (2, 2, 6, 6)))


def test_the_line_is_found_again_and_its_error_is_that_of_the_noise() -> None:
    iou = np.linspace(0.3, 0.9, 50)
    noise = np.where(np.arange(50) % 2, 0.02, -0.02)

    line = fit(iou, 0.8 * iou + 0.1 + noise)

    assert (line.slope, line.intercept) == pytest.approx((0.8, 0.1), abs=0.01)
    assert line.n == 50 and line.error == pytest.approx(0.02, abs=0.001)
    assert line(np.array([-1.0, 2.0])).tolist() == [0.0, 1.0]


def test_the_calibration_error_of_a_known_shift_is_the_shift() -> None:
    told = np.linspace(0.5, 0.9, 40)

    assert calibration_error(told, told) == pytest.approx(0.0, abs=1e-12)
    assert calibration_error(told, told - 0.07) == pytest.approx(0.07)
    # Too high by as much as too low within one bin is no error of the mean.
    assert calibration_error(told, told + np.tile([0.03, -0.03], 20)) == pytest.approx(
        0.0, abs=1e-9
    )


def all_methods(dice_of: dict[str, float]) -> list[Score]:
    return [
        score
        for method, value in {**METHODS, **dice_of}.items()
        for score in scores({"a": [value], "b": [value]}, method)
    ]


def test_the_measured_part_goes_between_its_marks_and_says_what_was_lost(tmp_path: Path) -> None:
    own = all_methods({table.TUNED: 0.5, table.PUBLISHED: 0.6})
    line = fit(np.array([0.4, 0.6]), np.array([0.4, 0.6]))
    readme = tmp_path / "README.md"
    readme.write_text("before\n{}\nstale text\n{}\nafter\n".format(*TABLE))

    when = datetime(2026, 11, 30, tzinfo=UTC)
    replace_part(readme, TABLE, measured_part(own, line, "ab" * 32, when))

    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "stale text" not in text
    assert "2026-11-30" in text and "ab" * 32 in text
    assert "-0.100 [-0.100, -0.100], 0 better, 2 worse" in text


def test_the_shipped_card_is_what_training_wrote_for_the_shipped_weights(tmp_path: Path) -> None:
    shutil.copytree(BUNDLE / "configs", tmp_path / "configs")
    sha256 = hashlib.sha256((BUNDLE / "models" / "decoder.pt").read_bytes()).hexdigest()

    pin_card(tmp_path, sha256)

    assert (tmp_path / "card.yaml").read_text() == (BUNDLE / "card.yaml").read_text()
    assert sha256 in (BUNDLE / "README.md").read_text()


@pytest.mark.parametrize("shown", [True, False])
def test_the_calibration_is_written_into_the_config(tmp_path: Path, shown: bool) -> None:
    config = tmp_path / "inference.yaml"
    shutil.copy(BUNDLE / "configs" / "inference.yaml", config)
    before = yaml.safe_load(config.read_text())
    line = fit(np.array([0.25, 0.5]), np.array([0.375, 0.5]))

    replace_part(config, CALIBRATION, confidence_block(line, shown))

    after = yaml.safe_load(config.read_text())
    confidence = {"of": "dice", "slope": 0.5, "intercept": 0.25, "n": 2, "error": 0.0}
    assert after["prompting"].pop("confidence") == {**confidence, "shown": shown}
    before["prompting"].pop("confidence")
    assert after == before


def test_a_file_without_its_marks_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("nothing")

    with pytest.raises(SystemExit, match="lacks the lines"):
        replace_part(tmp_path / "README.md", TABLE, "part")


def test_the_card_that_training_writes_names_its_weights_and_their_base(tmp_path: Path) -> None:
    shutil.copytree(BUNDLE / "configs", tmp_path / "tuned" / "configs")

    pin_card(tmp_path / "tuned", "ab" * 32)

    card = load_card(tmp_path / "tuned")
    published = load_card(BUNDLE.parent / "medsam_lite")
    assert card.weights_sha256 == "ab" * 32 and card.prompted
    assert card.base == WeightsBase("medsam_lite", published.weights_sha256)


def test_the_number_is_shown_only_where_it_holds_on_every_set() -> None:
    line = fit(np.array([0.4, 0.6]), np.array([0.4, 0.6]))  # Dice is the IoU
    right = all_methods({table.TUNED: 0.5})
    wrong = [Score("other", "c", "s", "c", table.TUNED, 0.7, 0.5)]

    assert table.confidence_holds(right, line)
    assert not table.confidence_holds([*right, *wrong], line)
