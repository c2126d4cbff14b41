"""What passes between the supervisor and its worker. Small: paths and sentences, never pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Request:
    """One study version to analyse.

    Attributes
    ----------
    input_dir : Path
        Its instances.
    output_dir : Path
        An empty folder for results.
    recorded_at : str
        ``YYYYMMDDHHMMSS`` that results bear.
    routed : tuple or None
        (bundle, Series Instance UID, whether the card's body part is asked) of every pair
        that a route wants; None: the cards decide about every series.
    propose : bool
        Where no bundle takes a 2D image, regions of it may be proposed.
    """

    input_dir: Path
    output_dir: Path
    recorded_at: str
    routed: tuple[tuple[str, str, bool], ...] | None = None
    propose: bool = False


@dataclass(frozen=True)
class Ready:
    """The worker has loaded its models; `seconds` it took."""

    seconds: float


@dataclass(frozen=True)
class Unfit:
    """The worker could not load its models and has ended."""

    reason: str


@dataclass(frozen=True)
class Outcome:
    """A study was looked at, to the end.

    Attributes
    ----------
    state : str
        Done with results; not applicable (no bundle wants it); failed for good.
    reason : str
        One sentence, no PHI.
    results : tuple of str
        Names of DICOM files in the request's output folder.
    """

    state: Literal["done", "not applicable", "failed"]
    reason: str = ""
    results: tuple[str, ...] = ()


@dataclass(frozen=True)
class Broken:
    """The analysis stopped: a defect, a crash or the time limit. Another try may do better."""

    reason: str


Job = Callable[[Request], Outcome]
JobFactory = Callable[[], Job]
Message = Ready | Unfit | Outcome | Broken
