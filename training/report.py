"""The gate's report for people: one page of text and one picture, from `gate.json` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_MEANING = {
    "promote": "The challenger may serve: `radloop train promote`.",
    "refused": "The challenger may not serve.",
    "undecided": "Too little to decide on: no promotion without a reader's recorded override.",
}
_BLUE, _ORANGE, _GREY = "#2b6cb0", "#dd6b20", "#a0aec0"


def write_markdown(content: dict[str, Any], file: Path, picture: str) -> None:
    """Write the page; `picture` is the name of the file beside it."""
    champion, challenger = content["champion"], content["challenger"]
    lines = [
        f"# Gate: {content['bundle']}, version {challenger['version']} against "
        f"{champion['version']}: {content['decision']}",
        "",
        _MEANING[content["decision"]],
        "",
        *(f"- {reason}" for reason in content["reasons"]),
        "",
        f"Hold-out: {content['patients']} patients, {content['cases']} cases of data set "
        f"`{content['manifest'][:12]}`. {_bias(content)}",
        "",
        f"- challenger `{challenger['sha256']}`",
        f"- champion `{champion['sha256']}`",
        f"- interval: {content['rules']['interval']}, paired, over patients",
        "",
    ]
    if content["structures"]:
        lines += [
            f"![Dice of champion and challenger]({picture})",
            "",
            "| structure | patients | champion | challenger | change |",
            "| --- | ---: | ---: | ---: | ---: |",
            *(
                f"| {s['name']} | {s['patients']} | {s['champion']:.3f} | {s['challenger']:.3f} "
                f"| {s['challenger'] - s['champion']:+.3f} |"
                for s in content["structures"]
            ),
            "",
            "| patient | champion | challenger | change |",
            "| --- | ---: | ---: | ---: |",
            *(_patient_line(row) for row in content["per_patient"]),
            "",
            "Dice, mean over the structures that are labelled in the patient.",
        ]
    file.write_text("\n".join(lines) + "\n")


def _bias(content: dict[str, Any]) -> str:
    """Whose answers the labels are: an unchanged one gives its own model a Dice of 1."""
    total, own = content["cases"], content["labels_by_champion"]
    theirs = content["left_out_as_labelled_by_challenger"]
    said = [f"{theirs} cases whose labels the challenger drew do not count."] if theirs else []
    if own:
        said.append(
            f"{own} of {total} labels were drawn by the champion itself: where such a label was "
            "confirmed unchanged, the champion has Dice 1 and the challenger can only lose."
        )
    return " ".join(said) or "No label was drawn by either of the two."


def _means(row: dict[str, Any]) -> tuple[float, float] | None:
    """Champion's and challenger's mean of one patient; None where nothing is labelled."""
    pair = []
    for who in ("champion", "challenger"):
        values = [value for value in row[who].values() if value is not None]
        if not values:
            return None
        pair.append(sum(values) / len(values))
    return pair[0], pair[1]


def _patient_line(row: dict[str, Any]) -> str:
    means = _means(row)
    if means is None:
        return f"| `{row['patient'][:12]}` | | | |"
    before, after = means
    return f"| `{row['patient'][:12]}` | {before:.3f} | {after:.3f} | {after - before:+.3f} |"


def write_picture(content: dict[str, Any], file: Path) -> None:
    """Structures on the left, patients on the right; an empty frame where there is nothing."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _draw_structures(left, content["structures"])
    _draw_patients(right, [pair for row in content["per_patient"] if (pair := _means(row))])
    figure.suptitle(
        f"{content['bundle']}: version {content['challenger']['version']} against "
        f"{content['champion']['version']}: {content['decision']}"
    )
    # Without its software's version the picture has the same bytes every time.
    figure.savefig(file, dpi=110, metadata={"Software": None})


def _draw_structures(axes: Any, structures: list[dict[str, Any]]) -> None:
    names = [f"{s['name']} (n={s['patients']})" for s in structures]
    rows = range(len(names))
    for row, s in enumerate(structures):
        axes.plot([s["champion"], s["challenger"]], [row, row], color=_GREY, zorder=1)
    # Open and larger: it is seen where the two are equal.
    champion = [s["champion"] for s in structures]
    axes.scatter(champion, rows, s=90, facecolors="none", edgecolors=_BLUE, label="champion")
    axes.scatter([s["challenger"] for s in structures], rows, color=_ORANGE, label="challenger")
    axes.set_yticks(rows, names)
    axes.invert_yaxis()
    axes.set_xlabel("Dice, mean over patients")
    axes.set_title("per structure", loc="left")
    axes.grid(axis="x", alpha=0.3)
    if structures:
        axes.legend(loc="best")


def _draw_patients(axes: Any, pairs: list[tuple[float, float]]) -> None:
    for before, after in pairs:
        colour = _ORANGE if after < before else _BLUE
        axes.plot([0, 1], [before, after], marker="o", color=colour, alpha=0.6)
    axes.set_xticks([0, 1], ["champion", "challenger"])
    axes.set_xlim(-0.2, 1.2)
    axes.set_ylabel("Dice, mean over structures")
    axes.set_title("per patient (blue: not worse, orange: worse)", loc="left")
    axes.grid(axis="y", alpha=0.3)
