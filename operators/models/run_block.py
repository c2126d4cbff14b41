"""The `run` block of a card: what comes out of a bundle, what goes in, and what it needs.

A bundle whose card has no such block takes one series and gives labels, one
per voxel, which is what most do. Everything else is said here by name; nothing
is guessed from a network's shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from operators.job import Code
from operators.reading import OperatingPoint, OutputClass

Device = Literal["any", "cuda"]
ALL_RUNTIMES = ("torch", "onnxruntime", "openvino")


class Output(Enum):
    """What a bundle gives.

    LABELS
        One label per voxel; segment number = label.
    PLANES
        Segments that may overlap; segment number = output channel + 1.
    CLASSES
        One class for the whole volume, or for each of its slices.
    BOXES
        Boxes in the patient, each with a class and a score.
    """

    LABELS = "labels"
    PLANES = "planes"
    CLASSES = "classes"
    BOXES = "boxes"


class Input(Enum):
    """How a volume is handed to the config.

    VOLUME
        Channel first, three axes.
    SLICES
        One slice after the other, two axes: networks of two dimensions.
    RGB
        One colour image, channel last, as an image file would be read.
    """

    VOLUME = "volume"
    SLICES = "slices"
    RGB = "rgb"


@dataclass(frozen=True)
class Range:
    """A number lies in it, both ends included; None: no end."""

    low: float | None = None
    high: float | None = None

    def holds(self, value: float) -> bool:
        """Whether `value` lies in it."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


@dataclass(frozen=True)
class ChannelRule:
    """What a series must be to serve as a channel; every condition must hold.

    Attributes
    ----------
    any_of, none_of : tuple of str
        Words of SeriesDescription or ProtocolName, case folded; the whole word counts
        (``t1`` is in "AX T1 POST", not in "T1C"). Empty: not asked.
    contrast : bool or None
        With contrast medium or without, by ContrastBolusAgent and description together.
    numbers : tuple of (str, Range)
        Keyword of an attribute in ms, and where its value must lie; absent: no match.
    """

    any_of: tuple[str, ...] = ()
    none_of: tuple[str, ...] = ()
    contrast: bool | None = None
    numbers: tuple[tuple[str, Range], ...] = ()


@dataclass(frozen=True)
class Channel:
    """One input channel, in the order that the network wants."""

    name: str
    rule: ChannelRule


@dataclass(frozen=True)
class Run:
    """How a bundle is run.

    Attributes
    ----------
    output, input : Output, Input
        What comes out, what goes in.
    torchscript : bool
        Its weights may be TorchScript, which is a program.
    device : str
        ``any`` or ``cuda``.
    runtimes : tuple of str
        What may call the network (`operators.models.runtimes`); without ``torch``
        among them the bundle runs only where it was exported.
    needs : tuple of str
        Python packages beyond radloop's own, by import name.
    channels : tuple of Channel
        One series each; empty: one series, one channel.
    classes : tuple of OutputClass
        In the order of the network's outputs.
    min_score : float
        Boxes with a smaller score are left out.
    operating_point : OperatingPoint or None
        None: the score is no confidence.
    result : str
        Key of the label map after the config's post-processing.
    switches : tuple of (str, bool or float)
        Values of the config that are set before it is read, by their path (``a#b``).
    unfit : str
        Why it can't run here; "" where it can.
    """

    output: Output = Output.LABELS
    input: Input = Input.VOLUME
    torchscript: bool = False
    device: Device = "any"
    runtimes: tuple[str, ...] = ALL_RUNTIMES
    needs: tuple[str, ...] = ()
    channels: tuple[Channel, ...] = ()
    classes: tuple[OutputClass, ...] = ()
    min_score: float = 0.0
    operating_point: OperatingPoint | None = None
    result: str = "pred"
    switches: tuple[tuple[str, bool | float], ...] = ()
    unfit: str = ""


_NUMBERS = {
    "echo_time_ms": "EchoTime",
    "repetition_time_ms": "RepetitionTime",
    "inversion_time_ms": "InversionTime",
}


def read_run(block: Mapping[str, Any] | None) -> Run:
    """The `run` block of a card that agrees with the schema; None: the defaults."""
    block = block or {}
    point = block.get("operating_point")
    return Run(
        output=Output(block.get("output", "labels")),
        input=Input(block.get("input", "volume")),
        torchscript=block.get("torchscript", False),
        device=block.get("device", "any"),
        runtimes=tuple(block.get("runtimes", ALL_RUNTIMES)),
        needs=tuple(block.get("needs", ())),
        channels=tuple(
            Channel(entry["name"], _rule(entry["when"])) for entry in block.get("channels", ())
        ),
        classes=tuple(
            OutputClass(
                entry["name"], entry["label"], Code(**_code(entry)) if "code" in entry else None
            )
            for entry in block.get("classes", ())
        ),
        min_score=block.get("min_score", 0.0),
        operating_point=None if point is None else _operating_point(point),
        result=block.get("result", "pred"),
        switches=tuple(block.get("set", {}).items()),
        unfit=block.get("unfit", ""),
    )


def _operating_point(point: Mapping[str, Any]) -> OperatingPoint:
    return OperatingPoint(
        class_name=point["class"],
        **{name: value for name, value in point.items() if name != "class"},
    )


def class_problem(run: Run) -> tuple[str, str] | None:
    """What is wrong with the names of classes: where in the card, and why; None: nothing."""
    named = [kind.name for kind in run.classes]
    if len(set(named)) != len(named):
        return "$.run.classes", "a name stands twice"
    point = run.operating_point
    if point is not None and point.class_name not in named:
        why = f"'{point.class_name}' is none of the classes ({', '.join(named) or 'none named'})"
        return "$.run.operating_point.class", why
    return None


def _code(entry: Mapping[str, Any]) -> dict[str, str]:
    return {key: entry["code"][key] for key in ("value", "scheme", "meaning")}


def _rule(when: Mapping[str, Any]) -> ChannelRule:
    words = when.get("description", {})
    return ChannelRule(
        any_of=tuple(word.casefold() for word in words.get("any_of", ())),
        none_of=tuple(word.casefold() for word in words.get("none_of", ())),
        contrast=when.get("contrast"),
        numbers=tuple(
            (keyword, Range(when[key].get("min"), when[key].get("max")))
            for key, keyword in _NUMBERS.items()
            if key in when
        ),
    )
