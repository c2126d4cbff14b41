"""The one page: nothing overlaps, nothing leaves it, nothing is dropped in silence."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
from PIL import Image
from pypdfium2 import PdfDocument

from operators.evidence.key_slices import key_slices
from operators.evidence.page import (
    MARGIN_MM,
    PAGE_MM,
    PICTURES,
    Box,
    lay_out,
    line_height,
    text_width,
    wrap,
)
from operators.evidence.pdf import draw_pdf
from operators.job import Code, Plane, Report, Scale
from operators.measured import Axis, Measurement, RuleResult
from tests.operators.report import counted, make_report
from tests.operators.scene import RECORDED_AT

MM = Code("mm", "UCUM", "millimeter")
ML = Code("mL", "UCUM", "milliliter")
LONG = (
    "Slices are 5.0 mm thick, and structures that are thinner than two of them are measured with "
    "an error that no number on this page holds. "
) * 3


def rule(number: int, accepted_by: str = "") -> RuleResult:
    return RuleResult(
        rule=f"fleischner-2017/solid-{number}",
        citation="MacMahon H et al. Radiology 2017;284:228-243, page 230, Table 1",
        severity="MODERATE",
        accepted_by=accepted_by,
        statement=f"Solid nodule of {number + 6}.4 mm, 6 to 8 mm, in a patient of unknown risk.",
        differentials=("granuloma", "primary lung cancer"),
        recommendations=("CT after 6 to 12 months", "then consider CT after 18 to 24 months"),
        decided_by=("long_axis",),
    )


def with_rules(report: Report, count: int) -> Report:
    """The first structure has `count` rules, axes and an uncertain volume."""
    first, *others = report.findings
    axis = Axis(((0.0, 0.0, 0.0), (1.0, 0.0, 0.0)), 0)
    length = Code("410668003", "SCT", "Length")
    first = replace(
        first,
        rules=tuple(rule(n, "ada" if n % 2 else "") for n in range(count)),
        measurements=(
            Measurement("volume", first.volume_ml or 0.0, length, ML, uncertainty=0.01),
            Measurement("long_axis", 12.34, length, MM, axis=axis),
            Measurement("short_axis", 7.0, length, MM, axis=axis),
        ),
    )
    return replace(report, findings=(first, *others))


def place(report: Report) -> list[Box]:
    shown = key_slices(report, counted(report))[:PICTURES]
    return lay_out(report, [(one, Image.new("RGB", (8, 8))) for one in shown], RECORDED_AT)


def texts(boxes: list[Box]) -> str:
    return "\n".join(box.text for box in boxes)


REPORTS = {
    "one": lambda: make_report(1, 1),
    "nine": lambda: make_report(9),
    "none": lambda: make_report(0, 3),
    "many": lambda: make_report(104, 60),
    "too many": lambda: make_report(240),
    "long names": lambda: make_report(9, 9, label="A structure with a very long name {} " * 4),
    "one long word": lambda: make_report(2, 2, label="Struct{}" * 40),
    "flags": lambda: make_report(12, flags=[LONG] * 5),
    "rules": lambda: with_rules(make_report(20, 5, flags=[LONG]), 3),
    "many rules": lambda: with_rules(make_report(104, 60, flags=[LONG] * 4), 40),
    "2d": lambda: make_report(3, plane=Plane("xray", None, (Scale(0, 0, 99, 99, 1, 1),), "")),
}


@pytest.mark.parametrize("name", REPORTS)
def test_boxes_lie_on_the_page_and_apart_and_hold_their_texts(name: str) -> None:
    boxes = place(REPORTS[name]())

    for box in boxes:
        assert box.left >= MARGIN_MM - 1e-6 and box.top >= MARGIN_MM - 1e-6
        assert box.left + box.width <= PAGE_MM[0] - MARGIN_MM + 1e-6
        assert box.top + box.height <= PAGE_MM[1] - MARGIN_MM + 1e-6
        if box.text:
            assert box.size_pt >= 6.5
            assert text_width(box.text, box.size_pt, bold=box.bold) <= box.width + 1e-6
            assert line_height(box.size_pt) <= box.height + 1e-6
    for a, b in combinations(boxes, 2):
        apart = (
            a.left + a.width <= b.left + 1e-6
            or b.left + b.width <= a.left + 1e-6
            or a.top + a.height <= b.top + 1e-6
            or b.top + b.height <= a.top + 1e-6
        )
        assert apart, (a, b)


@pytest.mark.parametrize("name", ["many", "rules", "long names", "2d"])
def test_pdfium_reads_one_a4_page_whose_lines_do_not_overlap(name: str) -> None:
    boxes = place(REPORTS[name]())

    document = PdfDocument(draw_pdf(boxes, RECORDED_AT))

    assert len(document) == 1
    assert document[0].get_size() == pytest.approx((595.28, 841.89), abs=0.1)
    page = document[0].get_textpage()
    read = page.get_text_range()
    for box in boxes:
        assert " ".join(box.text.split()) in " ".join(read.split())
    lines = [page.get_rect(n) for n in range(page.count_rects())]
    assert lines
    for a, b in combinations(lines, 2):  # left, bottom, right, top, in points, of the ink
        across = min(a[2], b[2]) - max(a[0], b[0])
        along = min(a[3], b[3]) - max(a[1], b[1])
        assert across <= 0.2 or along <= 0.2, (a, b)


def test_the_same_record_gives_the_same_bytes_and_another_record_others() -> None:
    boxes = place(REPORTS["rules"]())

    assert draw_pdf(boxes, RECORDED_AT) == draw_pdf(boxes, RECORDED_AT)
    assert draw_pdf(boxes, RECORDED_AT) != draw_pdf(boxes, "20250101000000")


def test_rules_say_whose_they_are_and_whether_anybody_here_accepted_them() -> None:
    said = " ".join(texts(place(REPORTS["rules"]())).split())

    assert "1: severity moderate, proposed (nobody here has accepted this rule). Solid" in said
    assert "1: severity moderate. Solid nodule of 7.4 mm" in said
    assert "fleischner-2017/solid-0: MacMahon H et al." in said
    assert "Recommended: CT after 6 to 12 months" in said
    assert "0.02 ± 0.01 mL" in said
    assert "12.3 × 7.0 mm" in said


def test_what_does_not_fit_is_counted() -> None:
    many_rules, too_many = texts(place(REPORTS["many rules"]())), place(REPORTS["too many"]())

    listed = sum(box.text.startswith("Structure ") for box in too_many) - 4  # under pictures
    assert f"{240 - listed} more: see the structured report" in texts(too_many)
    named = many_rules.split("not found\n")[1].count("Structure ")
    assert f"and {60 - named} more: see the structured report" in many_rules
    told = many_rules.count("fleischner-2017/")
    assert told >= 1
    assert f"{40 - told} more: see the structured report" in many_rules


def test_what_was_looked_for_and_not_found_is_named() -> None:
    said = texts(place(make_report(1, 2)))

    assert "Looked for and not found\nStructure 2, Structure 3" in said
    assert "No structure was found" in texts(place(make_report(0, 2)))


def test_a_long_statement_is_cut_but_not_that_it_is_only_proposed() -> None:
    report = with_rules(make_report(1), 1)
    long = replace(report.findings[0].rules[0], statement="A statement without an end " * 90)
    first = replace(report.findings[0], rules=(long,))

    said = texts(place(replace(report, findings=(first, *report.findings[1:]))))

    assert "moderate, proposed (nobody here has accepted this rule). A statement" in said
    assert "…" in said


def test_the_patient_is_not_on_the_page() -> None:
    said = texts(place(make_report(2)))

    assert "Nobody" not in said and "Known" not in said and "N-1" not in said


@pytest.mark.parametrize(
    ("label", "printed"), [("Ήπαρ {}", "Ήπαρ 1"), ("肝臓 {}", "structure_1"), ("Foie {}", "Foie 1")]
)
def test_a_label_is_printed_where_the_typeface_has_its_letters(label: str, printed: str) -> None:
    boxes = place(make_report(1, label=label))

    assert printed in [box.text for box in boxes]
    assert printed in PdfDocument(draw_pdf(boxes, RECORDED_AT))[0].get_textpage().get_text_range()


def test_wrapping_loses_no_word_and_no_letter() -> None:
    text = "one two " + "three" * 40 + " four"

    assert "".join(wrap(text, 8.0, 40.0)).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize(("found", "pictures"), [(0, 0), (3, 3), (9, 8), (104, 4)])
def test_there_are_more_pictures_where_there_is_room(found: int, pictures: int) -> None:
    boxes = place(make_report(found))

    assert sum(box.picture is not None for box in boxes) == pictures
