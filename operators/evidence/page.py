"""The one page: what stands where on an A4 sheet, in mm, before any PDF is made.

`lay_out` is pure and places every text, swatch and picture in a box of its own, so that
a test can see that none overlaps another and none leaves the paper. What doesn't fit is
counted on the page, never dropped in silence. No name and no identifier of the
patient is printed: the DICOM header around the page has them, in every script.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from PIL import Image

from operators.evidence.common import SOFTWARE_VERSION
from operators.evidence.comparison_text import change_in_words, prior_in_short, quality_flags
from operators.evidence.drawing import BOLD, REGULAR, Colour, advances, printable
from operators.evidence.key_slices import NOTE, SIDES_UNKNOWN, KeySlice, size_in_words
from operators.evidence.orientation import view_of
from operators.job import Finding, Report

PAGE_MM = (210.0, 297.0)
MARGIN_MM = 12.0
PICTURES = 8
COMPARED = 4  # structures whose change is shown
_PICTURES_IN_ROW = 4
LINE_EM = 1.17  # ascender and descender of the typeface together
BLACK: Colour = (20, 22, 26)
GREY: Colour = (96, 102, 112)
RED: Colour = (168, 40, 24)
_MM_PER_PT = 25.4 / 72
_WIDTH = PAGE_MM[0] - 2 * MARGIN_MM
_BOTTOM = PAGE_MM[1] - MARGIN_MM
_GAP_MM = 2.6
_SMALLEST_TABLE_MM = 42.0
_MORE = "{} more: see the structured report"


@dataclass(frozen=True)
class Box:
    """Something on the page.

    Attributes
    ----------
    left, top, width, height : float
        mm from the sheet's upper left corner.
    text : str
        One line; "" for a swatch or a picture.
    size_pt : float
        Of the text.
    bold : bool
        Of the text.
    colour : Colour
        Of the text or the swatch.
    picture : PIL.Image.Image or None
        Drawn into the box.
    """

    left: float
    top: float
    width: float
    height: float
    text: str = ""
    size_pt: float = 0.0
    bold: bool = False
    colour: Colour = BLACK
    picture: Image.Image | None = None


def text_width(text: str, size_pt: float, *, bold: bool = False) -> float:
    """How wide a line is, mm; letters that the typeface lacks raise KeyError."""
    widths = advances(BOLD if bold else REGULAR)
    return sum(widths[ord(letter)] for letter in text) * size_pt * _MM_PER_PT


def line_height(size_pt: float) -> float:
    """How high a line is, mm."""
    return LINE_EM * size_pt * _MM_PER_PT


def wrap(text: str, size_pt: float, width: float, *, bold: bool = False) -> list[str]:
    """Lines of `text`, none wider than `width` mm; a word that is wider is cut into parts."""
    lines: list[str] = []
    line = ""
    for word in printable(text).split():
        candidate = f"{line} {word}" if line else word
        if text_width(candidate, size_pt, bold=bold) <= width:
            line = candidate
            continue
        if line:
            lines.append(line)
        while text_width(word, size_pt, bold=bold) > width:
            part = word
            while text_width(part, size_pt, bold=bold) > width:
                part = part[:-1]
            lines.append(part)
            word = word[len(part) :]
        line = word
    return [*lines, line] if line else lines


def cut(text: str, size_pt: float, width: float, *, bold: bool = False) -> str:
    """`text` on one line, with an ellipsis where it is wider than `width` mm."""
    text = printable(text)
    if text_width(text, size_pt, bold=bold) <= width:
        return text
    while text and text_width(text + "…", size_pt, bold=bold) > width:
        text = text[:-1].rstrip()
    return text + "…"


@dataclass
class _Column:
    """Boxes from the top down."""

    top: float
    boxes: list[Box] = field(default_factory=list)

    def line(
        self,
        text: str,
        size_pt: float = 7.5,
        *,
        bold: bool = False,
        colour: Colour = BLACK,
        indent: float = 0.0,
    ) -> None:
        """One line, cut off at the margin."""
        width, height = _WIDTH - indent, line_height(size_pt)
        shown = cut(text, size_pt, width, bold=bold)
        self.boxes.append(
            Box(MARGIN_MM + indent, self.top, width, height, shown, size_pt, bold, colour)
        )
        self.top += height

    def lines(self, text: str, limit: int, size_pt: float = 7.5, colour: Colour = BLACK) -> None:
        """A paragraph of at most `limit` lines; a cut one ends with an ellipsis."""
        wrapped = wrap(text, size_pt, _WIDTH)
        if len(wrapped) > limit:
            wrapped = [*wrapped[: limit - 1], " ".join(wrapped[limit - 1 :])]
        for part in wrapped:
            self.line(part, size_pt, colour=colour)

    def heading(self, text: str) -> None:
        """A heading with room above it."""
        self.top += _GAP_MM
        self.line(text, 9.0, bold=True)
        self.top += 0.6

    @property
    def used(self) -> float:
        """How far it has come, from 0."""
        return self.top


def lay_out(
    report: Report, pictures: Sequence[tuple[KeySlice, Image.Image]], recorded_at: str
) -> list[Box]:
    """Place everything on the page.

    Parameters
    ----------
    report : Report
        A segmentation with its findings.
    pictures : sequence of (KeySlice, Image)
        Square pictures of structures; the first `PICTURES` are shown where that leaves room
        for a line on each structure and on each rule, else half of them.
    recorded_at : str
        ``YYYYMMDDHHMMSS``.

    Returns
    -------
    list of Box
        In reading order: head, facts, quality, pictures, guidelines, structures, what was
        looked for and not found, foot.
    """
    for rows in (PICTURES // _PICTURES_IN_ROW, 1):
        boxes, complete = _attempt(report, pictures[: rows * _PICTURES_IN_ROW], recorded_at)
        if complete:
            break
    return boxes


def _attempt(
    report: Report, pictures: Sequence[tuple[KeySlice, Image.Image]], recorded_at: str
) -> tuple[list[Box], bool]:
    """The page with these pictures, and whether every structure and rule has its own line."""
    upper = _Column(MARGIN_MM)
    _head(upper)
    _facts(upper, report, recorded_at)
    _quality(upper, report)
    _comparison(upper, report)
    _pictures(upper, pictures)
    lower = _Column(0.0)
    _not_found(lower, report)
    foot_top = _BOTTOM - line_height(6.5)
    room_below = foot_top - 1.5 - lower.used
    complete = _guidelines(upper, report, room_below - _SMALLEST_TABLE_MM)
    complete &= _structures(upper, report, room_below)
    shifted = [replace(box, top=box.top + upper.top) for box in lower.boxes]
    foot = _Column(foot_top)
    foot.line(f"radloop {SOFTWARE_VERSION} · {NOTE}", 6.5, colour=GREY)
    return [*upper.boxes, *shifted, *foot.boxes], complete


def _head(column: _Column) -> None:
    column.line("AI measurements", 16.0, bold=True)
    column.line(NOTE, 9.0, bold=True, colour=RED)
    column.top += 1.5


def _facts(column: _Column, report: Report, recorded_at: str) -> None:
    """Study, series and model: what the header has of them, and nobody's name."""
    volume, model = report.segmentation.volume, report.segmentation.model
    header = volume.headers[0]
    images = len({*volume.source_sop_uids})
    date = str(header.get("StudyDate") or "")
    body = str(header.get("BodyPartExamined") or "").lower()
    prompt = ", ".join(f"{name} {value}" for name, value in model.prompt)
    facts = [
        ("Study", f"{_date(date)} · {header.StudyInstanceUID}".removeprefix(" · ")),
        ("Series", f"{_series_number(header)}{volume.series_instance_uid}"),
        ("Images", f"{header.get('Modality') or ''} {body} · {images} images{_grid(report)}"),
        ("Part", volume.part),
        ("Analysed", f"{_date(recorded_at)} {recorded_at[8:10]}:{recorded_at[10:12]}"),
        ("Model", f"{model.name} {model.version} · {model.manufacturer} · {model.runtime}"),
        ("Weights sha256", model.weights_sha256 or "none: a model without weights"),
        ("Marked by a person", prompt),
    ]
    for name, value in facts:
        if not value:
            continue
        top = column.top
        column.line(value, indent=31.0)
        height = column.top - top
        column.boxes.append(
            Box(MARGIN_MM, top, 30.0, height, cut(name, 7.5, 30.0), 7.5, False, GREY)
        )
        column.top += 0.5


def _series_number(header: object) -> str:
    number = getattr(header, "SeriesNumber", None)
    return "" if number in (None, "") else f"no. {number} · "


def _grid(report: Report) -> str:
    """Voxel size of a volume; nothing of a 2D image."""
    volume = report.segmentation.volume
    if volume.plane is not None:
        return ""
    between, rows, columns = volume.spacing_zyx_mm
    view = view_of(volume)
    return f" · {view.name}, {columns:.2f} × {rows:.2f} × {between:.2f} mm"


def _date(stamp: str) -> str:
    """``YYYYMMDD…`` as 2026-01-31; "" where it is none."""
    return f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]}" if stamp[:8].isdigit() else ""


def _quality(column: _Column, report: Report) -> None:
    volume = report.segmentation.volume
    texts = [flag.text for flag in quality_flags(report)]
    if not all(view_of(volume).edges):
        texts.insert(0, SIDES_UNKNOWN)
    column.heading("Quality of the images")
    if not texts:
        column.line("Nothing was noticed.")
    for text in texts[:3]:
        column.lines(text, 2, colour=RED)
    if len(texts) > 3:
        column.line(_MORE.format(len(texts) - 3), colour=RED)


def _comparison(column: _Column, report: Report) -> None:
    """The volume of what was compared with an earlier result, what changed most first."""
    comparison = report.comparison
    if comparison is None or comparison.prior is None:
        return
    column.heading(f"Compared with the result of {prior_in_short(comparison)}")
    pairs = sorted(
        comparison.pairs,
        key=lambda pair: (
            not pair.changes[0].exceeds_uncertainty,
            -abs(pair.changes[0].change_percent),
        ),
    )
    for pair in pairs[:COMPARED]:
        column.line(f"{pair.label}: {change_in_words(pair.changes[0])}")
    left = max(len(pairs) - COMPARED, 0) + len(comparison.not_matched)
    if left:
        column.line(_MORE.format(left), colour=GREY)


def _pictures(column: _Column, pictures: Sequence[tuple[KeySlice, Image.Image]]) -> None:
    between, height = 3.0, line_height(7.0)
    side = (_WIDTH - (_PICTURES_IN_ROW - 1) * between) / _PICTURES_IN_ROW
    for number, (shown, image) in enumerate(pictures):
        if number % _PICTURES_IN_ROW == 0:
            column.top += _GAP_MM
            top, below = column.top, column.top + side + 0.8
            column.top = below + height
        left = MARGIN_MM + number % _PICTURES_IN_ROW * (side + between)
        segment = shown.finding.segment
        text = f"{printable(segment.label, segment.name)}, {size_in_words(shown.finding)}"
        column.boxes += [
            Box(left, top, side, side, picture=image),
            Box(left, below + 0.5, 2.0, height - 1.0, colour=segment.colour_rgb),
            Box(left + 3.0, below, side - 3.0, height, cut(text, 7.0, side - 3.0), 7.0),
        ]


def _guidelines(column: _Column, report: Report, lowest: float) -> bool:
    """What rules say, each with its source, above `lowest`; whether all of it found room."""
    said = [(finding, rule) for finding in report.findings for rule in finding.rules]
    if not said:
        return True
    column.heading("Guidelines")
    for number, (finding, rule) in enumerate(said):
        label = printable(finding.segment.label, finding.segment.name)
        status = ", proposed (nobody here has accepted this rule)" if rule.proposed else ""
        severity = rule.severity.replace("_", " ").lower()
        entry = _Column(column.top)
        # What limits the statement comes before it: its end may be cut off.
        entry.lines(f"{label}: severity {severity}{status}. {rule.statement}", 3)
        if rule.recommendations:
            entry.lines("Recommended: " + "; ".join(rule.recommendations), 2)
        if rule.differentials:
            entry.lines("Consider: " + "; ".join(rule.differentials), 1)
        entry.lines(f"{rule.rule}: {rule.citation}", 2, 6.5, GREY)
        entry.top += 0.8
        left = len(said) - number
        needed = entry.top + (line_height(7.5) if left > 1 else 0.0)
        if needed > lowest:
            column.line(_MORE.format(left))
            return False
        column.boxes += entry.boxes
        column.top = entry.top
    return True


_Cell = Callable[[Finding], str]


def _columns(report: Report) -> list[tuple[str, float, _Cell]]:
    """Head, width in mm and text of the columns beside the structure's name."""
    volume = report.segmentation.volume
    if volume.plane is not None:
        return [("area", 34.0, size_in_words), ("severity", 30.0, _severity)]
    columns: list[tuple[str, float, _Cell]] = [
        ("volume", 34.0, _volume),
        (f"mean {volume.unit}", 28.0, _mean),
        ("long × short axis", 36.0, _axes),
        ("severity", 26.0, _severity),
    ]
    # A column that nothing was measured for says nothing.
    return [one for one in columns if any(one[2](finding) for finding in report.findings)]


def _structures(column: _Column, report: Report, lowest: float) -> bool:
    """A line for each structure that was found, if there is room, else three in a line."""
    found = [finding for finding in report.findings if finding.voxels]
    column.heading("Structures found" if found else "No structure was found")
    if not found:
        return True
    pitch = line_height(7.5) + 0.7
    if len(found) + 1 <= int((lowest - column.top) / pitch):
        _full_table(column, report, found, pitch)
        return True
    _short_table(column, found, lowest)
    return False


def _full_table(column: _Column, report: Report, found: Sequence[Finding], pitch: float) -> None:
    others = _columns(report)
    labels = [printable(one.segment.label, one.segment.name) for one in found]
    longest = max(text_width(label, 7.5) for label in labels) + 10.0
    name_width = min(max(longest, 50.0), _WIDTH - sum(width for _, width, _ in others))
    height = line_height(7.5)

    def row(name: str, cells: Sequence[str], colour: Colour) -> None:
        left = MARGIN_MM + 4.0
        texts = [(name, name_width - 4.0)]
        texts += [(cell, width) for cell, (_, width, _) in zip(cells, others, strict=True)]
        for text, width in texts:
            if text:
                shown = cut(text, 7.5, width - 1.5)
                column.boxes.append(
                    Box(left, column.top, width - 1.5, height, shown, 7.5, False, colour)
                )
            left += width
        column.top += pitch

    row("structure", [head for head, _, _ in others], GREY)
    for finding, label in zip(found, labels, strict=True):
        colour = finding.segment.colour_rgb
        column.boxes.append(Box(MARGIN_MM, column.top + 0.5, 2.4, height - 1.0, colour=colour))
        row(label, [cell(finding) for _, _, cell in others], BLACK)


def _short_table(column: _Column, found: Sequence[Finding], lowest: float) -> None:
    size_pt, columns = 6.5, 3
    height = line_height(size_pt)
    pitch = height + 0.35
    rows = int((lowest - column.top) / pitch)
    if len(found) > rows * columns:
        rows -= 1  # for the line that counts the others
    rows = min(rows, -(-len(found) // columns))
    width = _WIDTH / columns
    for number, finding in enumerate(found[: rows * columns]):
        left = MARGIN_MM + number // rows * width
        top = column.top + number % rows * pitch
        segment = finding.segment
        column.boxes.append(Box(left, top + 0.4, 2.0, height - 0.8, colour=segment.colour_rgb))
        size = cut(size_in_words(finding), size_pt, 17.0)
        label = cut(printable(segment.label, segment.name), size_pt, width - 24.0)
        column.boxes.append(Box(left + 3.0, top, width - 24.0, height, label, size_pt))
        column.boxes.append(Box(left + width - 20.0, top, 17.0, height, size, size_pt))
    column.top += rows * pitch
    if len(found) > rows * columns:
        column.line(_MORE.format(len(found) - rows * columns), size_pt)


def _not_found(column: _Column, report: Report) -> None:
    absent = [
        printable(finding.segment.label, finding.segment.name)
        for finding in report.findings
        if not finding.voxels
    ]
    column.heading("Looked for and not found")
    text, limit = ", ".join(absent) or "Nothing: all were found.", 4
    kept = len(absent)
    while len(wrap(text, 7.5, _WIDTH)) > limit:
        kept -= 1
        text = ", ".join(absent[:kept]) + f" and {_MORE.format(len(absent) - kept)}"
    column.lines(text, limit)


def _volume(finding: Finding) -> str:
    spread = next((m.uncertainty for m in finding.measurements if m.name == "volume"), None)
    words = size_in_words(finding)
    if spread is None or finding.volume_ml is None:
        return words
    digits = 2 if finding.volume_ml < 10 else 1
    return f"{words.removesuffix(' mL')} ± {spread:.{digits}f} mL"


def _mean(finding: Finding) -> str:
    """HU without decimals: noise is larger than they are."""
    if finding.mean is None:
        return ""
    form = {"HU": ".0f", "SUVbw": ".2f"}.get(finding.unit, ".4g")
    text = format(finding.mean, form)
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def _axes(finding: Finding) -> str:
    by_name = {m.name: m for m in finding.measurements}
    found = [by_name[name] for name in ("long_axis", "short_axis") if name in by_name]
    if not found:
        return ""
    return " × ".join(f"{m.value:.1f}" for m in found) + f" {found[0].unit.value}"


def _severity(finding: Finding) -> str:
    return finding.severity.replace("_", " ").lower()
