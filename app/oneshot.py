"""One folder or file in, one folder out: what `radloop run` and the MAP entry point share."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.errors import Refusal

if TYPE_CHECKING:
    from app.priors import FolderPriors
    from operators.findings.guideline import Rulebook
    from operators.job import ExtraEvidence
    from operators.models.medsam.region import Region

RECORD_FORMAT = "%Y%m%d%H%M%S"


class Nothing(Refusal):
    """There is no such folder or file, or nothing in it: a wrong usage, not a failure."""

    code = "RL-0641"

    def __init__(self, study: Path, why: str) -> None:
        super().__init__(
            f"{study} {why}. Give the folder that holds the DICOM files, or one DICOM file."
        )


class OutputUnusable(Refusal):
    """Results can't be written where the user wants them."""

    code = "RL-0640"

    def __init__(self, output: Path, why: str) -> None:
        super().__init__(f"results can't go to {output} ({why}). Choose another folder with -o.")


def analyse_folder(
    study_dir: Path,
    output: Path,
    *,
    bundle: str | None = None,
    champions: Path | None = None,
    rules: Rulebook | None = None,
    progress: Callable[[str], None] = lambda stage: None,
    extra: Collection[ExtraEvidence] = (),
    prior: Path | None = None,
) -> dict[str, Any]:
    """Analyse a folder and write SEG, SR and `result.json`.

    A second run into the same folder writes the same objects: it takes the
    record's time from the `result.json` that is there.

    Parameters
    ----------
    study_dir : Path
        Folder of DICOM files, or one of them.
    output : Path
        Folder of results; made if missing.
    bundle : str or None
        Run this one, whatever the body part says.
    champions : Path or None
        Which weights serve; see `app.graph.load_models`.
    rules : Rulebook or None
        What guidelines say; see `app.graph.analyse`.
    progress : callable
        Called with the name of each stage as it begins.
    extra : collection of ExtraEvidence
        What is written beside SEG and SR.
    prior : Path or None
        Folder with earlier results of the same patient to compare with.

    Returns
    -------
    dict
        What `result.json` holds.

    Raises
    ------
    Nothing
        `study_dir` is neither a folder nor a file, or is empty, or `prior` is no folder.
    OutputUnusable
        `output` can't be written, or lies in the folder `study_dir`.
    Refusal
        A bundle can't be found, or a card is wrong.
    """
    _check_study(study_dir)
    priors = _priors(prior)
    with _prepared(output, study_dir):
        progress("models")
        from app.graph import analyse, load_models
        from operators.evidence.result import write_result

        job = analyse(
            study_dir,
            output,
            recorded_at(output),
            models=load_models(champions),
            bundle=bundle,
            rules=rules,
            progress=progress,
            extra=extra,
            priors=priors,
        )
        return write_result(job)


def segment_folder(
    study_dir: Path,
    output: Path,
    regions: tuple[Region, ...],
    *,
    bundle: str,
    series_uid: str | None = None,
    image: str = "",
    frame: int | None = None,
    rules: Rulebook | None = None,
    progress: Callable[[str], None] = lambda stage: None,
    extra: Collection[ExtraEvidence] = (),
    prior: Path | None = None,
) -> dict[str, Any]:
    """Segment what is marked and write SEG, SR and `result.json`.

    A second run into the same folder writes the same objects, see `analyse_folder`.

    Parameters
    ----------
    study_dir, output, rules, progress, extra, prior
        As for `analyse_folder`.
    regions : tuple of Region
        Box, points or marks of a file; none: regions of a 2D image are proposed.
    bundle : str
        A prompted bundle.
    series_uid : str or None
        Which series; None where the marks say it or the folder holds one that fits.
    image : str
        InstanceNumber or SOP Instance UID of a 2D image, where no mark names it.
    frame : int or None
        Of a 2D image with frames, from 1.

    Returns
    -------
    dict
        What `result.json` holds.

    Raises
    ------
    Nothing
        `study_dir` is neither a folder nor a file, or is empty, or `prior` is no folder.
    OutputUnusable
        `output` can't be written, or lies in the folder `study_dir`.
    Refusal
        The bundle, the series or the slice can't be told, or no mark fits.
    """
    _check_study(study_dir)
    priors = _priors(prior)
    with _prepared(output, study_dir):
        progress("models")
        from app.graph import Asked, load_models, segment
        from operators.evidence.result import write_result

        job = segment(
            study_dir,
            output,
            recorded_at(output),
            models=load_models(),
            asked=Asked(bundle, series_uid, regions, image, frame),
            rules=rules,
            progress=progress,
            extra=extra,
            priors=priors,
        )
        return write_result(job)


def recorded_at(output: Path) -> str:
    """``YYYYMMDDHHMMSS`` of the result that is already in a folder, else of now."""
    from operators.evidence.result import RESULT_FILE

    try:
        earlier = json.loads((output / RESULT_FILE).read_text())["recorded_at"]
        time.strptime(earlier, RECORD_FORMAT)
    except (OSError, ValueError, KeyError, TypeError):  # none, or none of ours
        return time.strftime(RECORD_FORMAT)
    return str(earlier)


def _check_study(study_dir: Path) -> None:
    """There is a file, or a folder with a file in it."""
    if study_dir.is_file():
        return
    if not study_dir.is_dir():
        raise Nothing(study_dir, "is no folder and no file")
    if not any(path.is_file() for path in study_dir.rglob("*")):
        raise Nothing(study_dir, "holds no file")


def _priors(folder: Path | None) -> FolderPriors | None:
    """The earlier results of a folder, if one is given."""
    from app.priors import FolderPriors

    if folder is not None and not folder.is_dir():
        raise Nothing(folder, "is no folder of earlier results")
    return None if folder is None else FolderPriors(folder)


def not_there(output: Path) -> tuple[Path, ...]:
    """What making a folder would make: itself and its parents, the deepest first."""
    return tuple(folder for folder in (output, *output.parents) if not folder.exists())


def remove_empty(made: Sequence[Path]) -> None:
    """Take folders away again, as far as nothing is in them; the deepest comes first."""
    with contextlib.suppress(OSError):
        for folder in made:
            folder.rmdir()


@contextlib.contextmanager
def _prepared(output: Path, study_dir: Path) -> Iterator[None]:
    """Make the folder and try it, before minutes of work; a refusal leaves none behind."""
    made = not_there(output)
    try:
        _prepare(output, study_dir)
        yield
    except BaseException:
        remove_empty(made)
        raise


def _prepare(output: Path, study_dir: Path) -> None:
    if study_dir.is_dir() and output.resolve().is_relative_to(study_dir.resolve()):
        raise OutputUnusable(output, "it lies in the folder of the study, which is read whole")
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise OutputUnusable(output, error.strerror or type(error).__name__) from error
