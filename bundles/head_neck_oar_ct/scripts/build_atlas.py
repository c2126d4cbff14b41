"""Population atlas of the head and neck: the demo patient's anatomy, and nobody's in particular.

No real image may travel with radloop, so the demo patient is made from this
average of many training patients. Run it in the bundle's folder::

    python -m scripts.build_atlas --data $RADLOOP_DATA/openkbp-hn-ct --out atlas

How: every patient whose head, neck and shoulders are whole and contoured is moved
to the patients' own mean (`registration`). Intensity there is the mean of the
middle half of the patients at each voxel; labels go by the share of the patients
in whom that organ was contoured. On one thread, so the same data give the same
files. About 12 minutes of one core.

Arrays here are (z, y, x), spaces are LPS mm (SimpleITK's).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813  (the name its own documentation uses)

from scripts.openkbp import ORGANS
from scripts.registration import (
    LOW_MM,
    SPACING_MM,
    Case,
    cases,
    grid,
    seen_mask,
    shape_fields,
    to_patient,
)

BODY_HU = -500.0
OUTSIDE_HU = -1000.0
MIN_PATIENTS = 30
MIN_PER_VOXEL = 12


@dataclass(frozen=True)
class Gathered:
    """All patients in the common space.

    Attributes
    ----------
    reference : sitk.Image
        The fine grid.
    hu : numpy.ndarray, shape (patients, z, y, x), float16
        HU; not a number where a patient was cut.
    share : numpy.ndarray, shape (8, z, y, x), float32
        Per label id: share of the patients, among those in whom it was contoured.
    volume_ml : numpy.ndarray, shape (8,)
        Per label id: median volume in the common space.
    """

    reference: sitk.Image
    hu: np.ndarray
    share: np.ndarray
    volume_ml: np.ndarray


def gather(
    people: list[Case], bases: list[sitk.AffineTransform], fields: list[sitk.Image]
) -> Gathered:
    """Bring every patient's CT (cubic) and labels (linear) to the fine grid, in one step."""
    reference = grid(SPACING_MM)
    shape = reference.GetSize()[::-1]
    voxel_ml = float(np.prod(SPACING_MM)) / 1000.0
    hu = np.empty((len(people), *shape), np.float16)
    total, known = (np.zeros((len(ORGANS) + 1, *shape), np.float32) for _ in range(2))
    volumes: list[list[float]] = [[] for _ in range(len(ORGANS) + 1)]
    for n, (case, base, field) in enumerate(zip(people, bases, fields, strict=True)):
        transform = to_patient(base, field)
        seen = seen_mask(case, reference, transform)
        image = sitk.Resample(case.ct, reference, transform, sitk.sitkBSpline, -1024.0)
        clamped = np.clip(sitk.GetArrayFromImage(image), OUTSIDE_HU, 2500.0)
        hu[n] = np.where(seen, clamped, np.nan)
        for k in sorted(case.contoured):
            organ = sitk.Cast(case.label == k, sitk.sitkFloat32)
            inside = sitk.Resample(organ, reference, transform, sitk.sitkLinear, 0.0)
            part = sitk.GetArrayFromImage(inside) * seen
            total[k] += part
            known[k] += seen
            volumes[k].append(float(part.sum()) * voxel_ml)
    medians = np.array([np.median(v) if v else 0.0 for v in volumes])
    return Gathered(reference, hu, total / np.maximum(known, 1), medians)


def middle_half_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis without the lowest and the highest quarter.

    Parameters
    ----------
    values : numpy.ndarray, shape (patients, …)
        Not a number where a patient has no value.

    Returns
    -------
    numpy.ndarray, shape (…), float32
        `OUTSIDE_HU` where no patient has one.
    """
    ordered = np.sort(values.astype(np.float32), axis=0)  # not-a-numbers go last
    count = np.isfinite(ordered).sum(axis=0)
    rank = np.arange(len(ordered)).reshape(-1, *(1,) * (ordered.ndim - 1))
    keep = (rank >= count // 4) & (rank < count - count // 4)
    total = np.where(keep, np.nan_to_num(ordered), 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(keep.sum(axis=0), 1), OUTSIDE_HU)


def majority(share: np.ndarray, volume_ml: np.ndarray) -> np.ndarray:
    """Label ids where the share of the patients passes that organ's threshold.

    The threshold is the one that gives the organ its median volume, between 0.3
    and 0.5: with a half alone, thin organs would come out thinner than anyone's.
    """
    voxel_ml = float(np.prod(SPACING_MM)) / 1000.0
    labels = np.zeros(share.shape[1:], np.uint8)
    surest = np.ones(share.shape[1:], np.float32)
    for k in range(1, len(share)):
        wanted = round(volume_ml[k] / voxel_ml)
        threshold = float(np.clip(np.partition(share[k].ravel(), -wanted)[-wanted], 0.3, 0.5))
        ratio = share[k] / threshold
        wins = ratio > surest
        surest[wins], labels[wins] = ratio[wins], k
        print(f"{ORGANS[k - 1]}: share above {threshold:.2f}, {wins.sum() * voxel_ml:.1f} mL")
    return labels


def nobody_in_it(hu: np.ndarray, every: int = 10) -> dict[str, float]:
    """How little one patient counts, on every tenth slice.

    Parameters
    ----------
    hu : numpy.ndarray, shape (patients, z, y, x)
        As gathered.

    Returns
    -------
    dict
        Correlation (body only, HU clamped to -200 to 300) of each patient with the
        atlas, with the atlas made without that patient, and with the most similar
        other patient; and the change of the atlas's HU when one patient is left out.
    """
    part = hu[:, every // 2 :: every].astype(np.float32)
    whole = middle_half_mean(part)
    body = whole > BODY_HU
    with_it, without_it, change = [], [], []
    for n in range(len(part)):
        rest = middle_half_mean(np.delete(part, n, axis=0))
        seen = body & np.isfinite(part[n])
        own, a, b = (np.clip(v[seen], -200.0, 300.0) for v in (part[n], whole, rest))
        with_it.append(float(np.corrcoef(own, a)[0, 1]))
        without_it.append(float(np.corrcoef(own, b)[0, 1]))
        change.append(float(np.abs(a - b).mean()))
    gain = np.subtract(with_it, without_it)
    return {
        "patients": len(part),
        "correlation_with_atlas_median": float(np.median(with_it)),
        "correlation_with_atlas_highest": float(np.max(with_it)),
        "correlation_with_atlas_made_without_median": float(np.median(without_it)),
        "correlation_gained_by_taking_part_highest": float(gain.max()),
        "mean_change_of_atlas_hu_when_one_is_left_out_highest": float(np.max(change)),
    }


def write_atlas(gathered: Gathered, out: Path) -> None:
    """Crop to the slices and the body that enough patients share, and write the files."""
    seen = np.isfinite(gathered.hu).sum(axis=0).min(axis=(1, 2))
    z = np.flatnonzero(seen >= MIN_PER_VOXEL)
    hu = middle_half_mean(gathered.hu[:, z[0] : z[-1] + 1])
    body = np.argwhere(hu > BODY_HU)
    low, high = body.min(axis=0) - 3, body.max(axis=0) + 4
    low, high = np.maximum(low, 0)[1:], np.minimum(high, hu.shape)[1:]
    box = (slice(z[0], z[-1] + 1), slice(low[0], high[0]), slice(low[1], high[1]))
    labels = majority(gathered.share[(slice(None), *box)], gathered.volume_ml)
    origin = np.array(LOW_MM) + np.array(SPACING_MM) * [low[1], low[0], z[0]]
    out.mkdir(parents=True, exist_ok=True)
    for name, array in (("ct", np.rint(hu[:, *box[1:]]).astype(np.int16)), ("label", labels)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(SPACING_MM)
        image.SetOrigin(origin.tolist())
        sitk.WriteImage(image, str(out / f"{name}.nii.gz"), True, 9)
    names = {str(k): organ for k, organ in enumerate(ORGANS, start=1)}
    (out / "labels.json").write_text(json.dumps(names, indent=2) + "\n")
    checks = {k: round(v, 4) for k, v in nobody_in_it(gathered.hu[(slice(None), *box)]).items()}
    (out / "checks.json").write_text(json.dumps(checks, indent=2) + "\n")
    print(json.dumps(checks, indent=2))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="the openkbp-hn-ct folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for the atlas")
    given = parser.parse_args()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # sums in one order: same bytes
    people = list(cases(given.data, "train"))
    if len(people) < MIN_PATIENTS:
        raise SystemExit(f"{len(people)} patients qualify; {MIN_PATIENTS} are the least")
    print(f"{len(people)} patients", flush=True)
    write_atlas(gather(people, *shape_fields(people)), given.out)


if __name__ == "__main__":
    main()
