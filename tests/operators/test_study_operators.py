"""StudySource, SeriesSelector and VolumeBuilder in a real graph, on a folder with trouble in it."""

from __future__ import annotations

import numpy as np

from operators.core import Application, CountCondition, Operator
from operators.job import StudyJob
from operators.study.operator import SeriesSelector, StudySource
from operators.study.select import Accepts
from operators.volume.operator import VolumeBuilder
from tests.series import Ball, centred_grid, render, stable_uid, write_ct_series

SHAPE = (6, 10, 8)
AFFINE = centred_grid(SHAPE, (2.5, 0.8, 1.1))
ARRAY = render([Ball((0.0, 0.0, 0.0), 3.0, 1500)], SHAPE, AFFINE)


class Catch(Operator):
    """End of the line."""

    def __init__(self, fragment, *args, caught, **kwargs):
        self.caught = caught
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec):
        spec.input("job")

    def compute(self, op_input, op_output, context):
        self.caught.append(op_input.receive("job"))


class Line(Application):
    """The reading half of radloop's graph."""

    def __init__(self, job, accepts, caught, forced=None):
        self.parts = job, accepts, caught, forced
        super().__init__(argv=["test"])

    def compose(self):
        job, accepts, caught, forced = self.parts
        source = StudySource(self, CountCondition(self, 1), job=job, name="source")
        selector = SeriesSelector(
            self, accepts_by_bundle=accepts, forced_bundle=forced, name="selector"
        )
        builder = VolumeBuilder(self, name="builder")
        self.add_flow(source, selector)
        self.add_flow(selector, builder)
        self.add_flow(builder, Catch(self, caught=caught, name="catch"))


def run(folder, accepts, forced=None) -> StudyJob:
    caught: list[StudyJob] = []
    job = StudyJob(folder, folder / "out", "20240102030405")
    Line(job, accepts, caught, forced).run()
    return caught[0]


def uid(series: str) -> str:
    return stable_uid("PHANTOM-1", "study", series)


def test_what_can_be_built_is_and_the_rest_has_its_reason(tmp_path):
    def lose_a_slice(dataset, k):
        if k >= 3:
            z = AFFINE[2, 3] + 2.5 * (k + 1)
            dataset.ImagePositionPatient = [str(AFFINE[0, 3]), str(AFFINE[1, 3]), str(z)]

    write_ct_series(tmp_path / "a", ARRAY, AFFINE, series="good")
    write_ct_series(tmp_path / "b", ARRAY, AFFINE, series="gap", edit=lose_a_slice)
    write_ct_series(tmp_path / "c", ARRAY, AFFINE, series="belly", body_part="ABDOMEN")
    (tmp_path / "readme.txt").write_text("hello")

    accepts = {"head": Accepts(body_part=("HEADNECK",)), "neck": Accepts(body_part=("HEADNECK",))}
    job = run(tmp_path, accepts)

    assert [(v.bundle, v.series_instance_uid) for v in job.volumes] == [
        ("head", uid("good")),
        ("neck", uid("good")),
    ]
    assert all(np.array_equal(volume.array, ARRAY) for volume in job.volumes)
    # Decoded once, shared by both bundles.
    assert job.volumes[0].array is job.volumes[1].array
    assert [(entry.what, entry.reason[:7]) for entry in job.refused] == [
        ("readme.txt", "RL-0103"),
        (uid("gap"), "RL-0314"),
    ]
    assert [entry.what for entry in job.unmatched] == [uid("belly")]
    assert "head: body part 'ABDOMEN'" in job.unmatched[0].reason


def test_a_forced_bundle_runs_whatever_the_body_part(tmp_path):
    write_ct_series(tmp_path, ARRAY, AFFINE, body_part=None)
    accepts = {"head": Accepts(body_part=("HEAD",)), "other": Accepts()}

    job = run(tmp_path, accepts, forced="head")

    assert [volume.bundle for volume in job.volumes] == ["head"]
