"""Which older results go when a newer one stands."""

from __future__ import annotations

from dataclasses import replace

from app.register import Written
from app.workflow.replaced import not_confirmed, replaced_by
from tests.app.verdicts import verdict

SEG = Written("1.2.3.1", "b" * 64, "SEG", "1.2", "1.2.1", "", "b", "", "20260101000000")
SR = replace(SEG, sop_instance_uid="1.2.3", kind="SR", sha256="a" * 64)
NEW = [replace(SEG, sop_instance_uid="5.1"), replace(SR, sop_instance_uid="5")]


def test_what_nobody_confirmed_goes() -> None:
    assert replaced_by(NEW, [SEG, SR, *NEW], []) == [SEG, SR]


def test_what_was_confirmed_stays_whole_and_what_was_rejected_goes() -> None:
    confirmed, rejected = verdict(1), verdict(2, because="wrong side")

    assert replaced_by(NEW, [SEG, SR, *NEW], [confirmed]) == []
    assert replaced_by(NEW, [SEG, SR], [confirmed, rejected]) == [SEG, SR]  # the latest counts
    assert replaced_by(NEW, [SEG, SR], [rejected, confirmed]) == []


def test_what_the_new_one_has_no_result_for_goes_too_and_a_verified_copy_stays() -> None:
    gone = [
        replace(SEG, source_series_uid="1.2.2"),
        replace(SEG, bundle="c"),
        replace(SR, kind="STATUS", bundle="status"),
    ]
    kept = [replace(SR, kind="VERIFIED_SR"), replace(SR, kind="KOS")]
    assert replaced_by(NEW, [*gone, *kept], []) == gone


def test_own_results_of_a_superseded_version_go_unless_confirmed() -> None:
    assert not_confirmed([SEG, SR], []) == [SEG, SR]
    assert not_confirmed([SEG, SR], [verdict(1)]) == []


def test_key_images_and_pdf_share_the_verdict_of_the_result_they_belong_to() -> None:
    beside = [
        replace(SR, sop_instance_uid=f"1.2.4.{number}", kind=kind)
        for number, kind in enumerate(("KEY_IMAGE", "KEY_IMAGE", "PDF"))
    ]
    others = [
        replace(beside[0], sop_instance_uid="1.2.5.1", recorded_at="20250101000000"),
        replace(beside[2], sop_instance_uid="1.2.5.2", source_series_uid="1.2.9"),
    ]
    everything = [SEG, SR, *beside, *others]

    assert not_confirmed(everything, []) == everything
    assert not_confirmed(everything, [verdict(1)]) == others
    assert replaced_by(NEW, [*everything, *NEW], [verdict(1)]) == others


def test_contours_go_with_their_seg_and_stay_with_it() -> None:
    contours = replace(SEG, sop_instance_uid="1.2.3.9", kind="RTSTRUCT")
    other_run = replace(contours, sop_instance_uid="1.2.3.8", recorded_at="20250101000000")

    assert replaced_by(NEW, [SEG, SR, contours], []) == [SEG, SR, contours]
    assert replaced_by(NEW, [SEG, SR, contours, other_run], [verdict(1)]) == [other_run]
