"""Which weights have learned from images that their source took back since."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from training.dataset import read_manifest
from training.refusals import DatasetChanged
from training.registry import Version
from training.state import StateDir


def learned_from(
    versions: Sequence[Version], state: StateDir, studies: Collection[str]
) -> dict[int, int | None]:
    """For each version how many cases of these studies are in it, those of its parents included.

    Parameters
    ----------
    versions : sequence of Version
        Of one bundle, oldest first.
    state : StateDir
        Holds the data sets.
    studies : collection of str
        Study Instance UIDs.

    Returns
    -------
    dict of int to int or None
        Number of the version → cases to train and validate with; None where a data set is
        gone or damaged, so that nobody can say.
    """
    cases: dict[str, set[str] | None] = {}
    for version in versions:
        inherited = cases.get(version.parent, set()) if version.parent else set()
        own = _cases(state, version.dataset, studies)
        cases[version.sha256] = None if own is None or inherited is None else own | inherited
    return {
        version.number: None if (found := cases[version.sha256]) is None else len(found)
        for version in versions
    }


def _cases(state: StateDir, dataset: str | None, studies: Collection[str]) -> set[str] | None:
    if dataset is None or not studies:
        return set()
    try:
        manifest = read_manifest(state, dataset)
    except DatasetChanged:
        return None
    return {
        case.case
        for case in manifest.cases
        if case.split != "holdout" and case.study_instance_uid in studies
    }
