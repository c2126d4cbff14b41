"""The demo patient: nobody, made from a population atlas, with organs that are known.

The atlas (`bundles/head_neck_oar_ct/atlas`) is the mean head and neck of many
people. A seed turns it into one more: stretched, bent smoothly, sharpened again
after the averaging, put on a couch and scanned with noise. The truth labels take
the same path through the same field, so volume and Dice of a result can be told
exactly. Every file says that it is synthetic.

Arrays are (z, y, x); x to the Left, y to the Posterior, z to the Superior (LPS).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import fft, ndimage

from app.demo.ct_series import SeriesIdentity, write_ct_series
from operators.errors import ModelRefusal
from operators.evidence.uids import derive_uid

ATLAS_DIR = Path(__file__).resolve().parents[2] / "bundles" / "head_neck_oar_ct" / "atlas"

PIXELS = 512
PIXEL_MM = 500.0 / PIXELS
SLICE_MM = 2.5
AIR_HU = -1000.0
BODY_HU = -400.0

SHARPEN_SIGMA_MM = 3.0
SHARPEN_SOFT, SHARPEN_BONE = 0.9, 0.45
SOFT_HU = (-150.0, 80.0)
BONE_HU = 150.0
LOBULE_HU, LOBULE_MM = 16.0, 3.0
BEND_MM = 6.0
BEND_SMOOTH_MM = 36.0
NODE_MM = 12.0
NOISE_HU = 11.0


class AtlasMissing(ModelRefusal):
    """The bundle came without its atlas, or with half of it."""

    code = "RL-0491"

    def __init__(self, folder: Path, file: str) -> None:
        super().__init__(
            f"the demo patient needs {file} in {folder}, and it is not there. Install radloop with "
            "its bundles, or build the atlas anew: see README.md in that folder."
        )


@dataclass(frozen=True)
class Atlas:
    """Mean anatomy and its labels.

    Attributes
    ----------
    hu : numpy.ndarray, shape (z, y, x), float32
        Hounsfield units.
    labels : numpy.ndarray, shape (z, y, x), uint8
        0 is background.
    names : dict
        Label id to organ name.
    origin_zyx_mm, spacing_zyx_mm : numpy.ndarray, shape (3,)
        LPS of the first voxel, and steps, both in the order z, y, x.
    """

    hu: np.ndarray
    labels: np.ndarray
    names: dict[int, str]
    origin_zyx_mm: np.ndarray
    spacing_zyx_mm: np.ndarray


@dataclass(frozen=True)
class DemoPatient:
    """What was written, and the truth about it.

    Attributes
    ----------
    dicom_dir : Path
        Folder of the CT series.
    study_instance_uid, series_instance_uid : str
        Its identity.
    labels : numpy.ndarray, shape (z, y, x), uint8
        True organs on the grid of the series; 0 is background.
    names : dict
        Label id to organ name.
    lps_from_index : numpy.ndarray, shape (4, 4), float64
        (i, j, k, 1) = (column, row, slice) → LPS mm.
    volume_ml : dict
        Organ name to true volume, mL.
    """

    dicom_dir: Path
    study_instance_uid: str
    series_instance_uid: str
    labels: np.ndarray
    names: dict[int, str]
    lps_from_index: np.ndarray
    volume_ml: dict[str, float]


def make_demo_patient(
    folder: Path, *, seed: int = 0, patient_number: int = 1, atlas_dir: Path = ATLAS_DIR
) -> DemoPatient:
    """Write a synthetic head-and-neck CT series; the same arguments give the same bytes.

    Parameters
    ----------
    folder : Path
        Created where absent; one file per slice.
    seed : int
        Which anatomy and which noise.
    patient_number : int
        For PatientID ``RADLOOP-DEMO-001``; the UIDs depend on it and on the seed.
    atlas_dir : Path
        Folder with ``ct.nii.gz``, ``label.nii.gz`` and ``labels.json``.

    Returns
    -------
    DemoPatient
        512 × 512, 100 slices or more, and its true labels.

    Raises
    ------
    AtlasMissing
        One of the three files is not there.
    """
    atlas = load_atlas(atlas_dir)
    # RandomState, not default_rng: numpy promises its stream for ever.
    rng = np.random.RandomState([seed % 2**32, patient_number % 2**32])
    pose = draw_pose(rng, atlas)
    labels = warped_labels(atlas, pose)
    hu = scanned(rng, atlas, pose)

    affine = pose.lps_from_index
    study, series, frame = (
        derive_uid("radloop", "demo-patient", part, str(seed), str(patient_number))
        for part in ("study", "series", "frame-of-reference")
    )
    identity = SeriesIdentity(
        patient_name="DEMO^SYNTHETIC",
        patient_id=f"RADLOOP-DEMO-{patient_number:03d}",
        study_instance_uid=study,
        series_instance_uid=series,
        frame_of_reference_uid=frame,
        study_description="Synthetic head and neck CT",
        series_description="SYNTHETIC CT, not a person",
        image_comments=f"Synthetic: made by radloop from a population atlas, seed {seed}",
        study_date="20260101",
        study_time="120000",
        body_part="HEADNECK",
        manufacturer="radloop",
        model="demo patient",
    )
    write_ct_series(folder, hu, affine, identity)
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000.0
    counts = np.bincount(labels.ravel(), minlength=max(atlas.names) + 1)
    return DemoPatient(
        dicom_dir=folder,
        study_instance_uid=study,
        series_instance_uid=series,
        labels=labels,
        names=atlas.names,
        lps_from_index=affine,
        volume_ml={name: float(counts[k] * voxel_ml) for k, name in atlas.names.items()},
    )


def load_atlas(folder: Path) -> Atlas:
    """Read the atlas, turned to (z, y, x) in LPS, and sharpen what averaging blurred."""
    for file in ("ct.nii.gz", "label.nii.gz", "labels.json"):
        if not (folder / file).exists():
            raise AtlasMissing(folder, file)
    images = [nib.as_closest_canonical(nib.load(folder / f"{n}.nii.gz")) for n in ("ct", "label")]
    # RAS to LPS: the first two axes run the other way.
    hu, labels = (np.asarray(i.dataobj)[::-1, ::-1].transpose(2, 1, 0) for i in images)
    ras = images[0].affine
    step = np.diag(ras)[:3]
    last = ras[:3, 3] + step * (np.array(images[0].shape) - 1)
    names = {int(k): v for k, v in json.loads((folder / "labels.json").read_text()).items()}
    spacing = step[::-1].copy()
    return Atlas(
        hu=sharpened(hu.astype(np.float32), spacing),
        labels=labels.astype(np.uint8),
        names=names,
        origin_zyx_mm=np.array([ras[2, 3], -last[1], -last[0]]),
        spacing_zyx_mm=spacing,
    )


def sharpened(hu: np.ndarray, spacing_zyx_mm: np.ndarray) -> np.ndarray:
    """Undo some of the averaging's blur: unsharp masking, apart for soft tissue, bone and air.

    With one mask for all, bone would throw a dark seam on what lies beside it, and the
    spinal cord, in its canal of bone, would sink to the density of fat.
    """
    sigma = SHARPEN_SIGMA_MM / spacing_zyx_mm
    edge = hu - ndimage.gaussian_filter(hu, sigma)
    soft = np.clip(hu, *SOFT_HU)
    change = SHARPEN_SOFT * (soft - ndimage.gaussian_filter(soft, sigma))
    bone, air = hu > BONE_HU, hu < BODY_HU
    change[bone] = SHARPEN_BONE * np.maximum(edge[bone], 0.0)
    change[air] = SHARPEN_SOFT * np.minimum(edge[air], 0.0)
    return np.clip(hu + change, AIR_HU, 2000.0)


def lobules(rng: np.random.RandomState, atlas: Atlas) -> np.ndarray:
    """HU to add on the atlas's grid: fat and glands are lobulated, an average is smooth."""
    white = rng.standard_normal(atlas.hu.shape).astype(np.float32)
    grain = ndimage.gaussian_filter(white, LOBULE_MM / atlas.spacing_zyx_mm)
    fatty = np.exp(-(((atlas.hu + 50.0) / 60.0) ** 2))
    return LOBULE_HU * fatty * grain / grain.std()


@dataclass(frozen=True)
class Pose:
    """From the patient's grid to the atlas.

    Attributes
    ----------
    shape : tuple of int
        (z, y, x) of the series.
    lps_from_index : numpy.ndarray, shape (4, 4), float64
        Its affine.
    centre_zyx_mm : numpy.ndarray, shape (3,)
        Fixed point of the stretch, LPS.
    stretch_zyx : numpy.ndarray, shape (3,)
        Patient size over atlas size.
    nodes : tuple of numpy.ndarray
        Places of the bend's nodes along z, y, x, patient LPS mm.
    bend_mm : numpy.ndarray, shape (3, nz, ny, nx), float32
        Displacement at the nodes, components z, y, x.
    """

    shape: tuple[int, int, int]
    lps_from_index: np.ndarray
    centre_zyx_mm: np.ndarray
    stretch_zyx: np.ndarray
    nodes: tuple[np.ndarray, np.ndarray, np.ndarray]
    bend_mm: np.ndarray

    def axes_mm(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """LPS of the voxel centres along z, y and x."""
        origin, step = self.lps_from_index[:3, 3], np.diag(self.lps_from_index)[:3]
        i, j, k = (origin[a] + step[a] * np.arange(self.shape[2 - a]) for a in range(3))
        return k, j, i

    def atlas_mm(self, z_mm: np.ndarray, y_mm: np.ndarray, x_mm: np.ndarray) -> np.ndarray:
        """Where in the atlas the points of a rectangular grid come from.

        Parameters
        ----------
        z_mm, y_mm, x_mm : numpy.ndarray, 1-D
            Patient LPS along each axis.

        Returns
        -------
        numpy.ndarray, shape (3, z, y, x), float32
            Atlas LPS, components z, y, x.
        """
        axes = (z_mm, y_mm, x_mm)
        weights = [
            spline_matrix(len(n), (a - n[0]) / (n[1] - n[0]))
            for a, n in zip(axes, self.nodes, strict=True)
        ]
        out = np.einsum(
            "zc,dcba,yb,xa->dzyx", weights[0], self.bend_mm, weights[1], weights[2], optimize=True
        )
        for d, axis in enumerate(axes):
            unstretched = (axis - self.centre_zyx_mm[d]) / self.stretch_zyx[d]
            along = np.expand_dims(
                unstretched + self.centre_zyx_mm[d], [a for a in range(3) if a != d]
            )
            out[d] += along.astype(np.float32)
        return out


def spline_matrix(count: int, at: np.ndarray) -> np.ndarray:
    """Cubic spline interpolation as a matrix.

    Parameters
    ----------
    count : int
        Number of samples, at 0, 1, 2 …
    at : numpy.ndarray, shape (n,)
        Where to interpolate; beyond the ends the end value holds.

    Returns
    -------
    numpy.ndarray, shape (n, count), float32
        Times the samples gives the interpolated values.
    """
    columns = [
        ndimage.map_coordinates(unit, [np.clip(at, 0, count - 1)], order=3, mode="nearest")
        for unit in np.eye(count)
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def draw_pose(rng: np.random.RandomState, atlas: Atlas) -> Pose:
    """A body of plausible size, bent smoothly by a few millimetres."""
    low, step = atlas.origin_zyx_mm, atlas.spacing_zyx_mm
    high = low + step * (np.array(atlas.hu.shape) - 1)
    body = np.argwhere(atlas.hu[::4, ::2, ::2] > BODY_HU) * [4, 2, 2] * step + low
    centre = (body.min(axis=0) + body.max(axis=0)) / 2
    stretch = np.clip(1.0 + rng.normal(0, 0.02) + rng.normal(0, 0.012, 3), 0.94, 1.05)

    ends = zip(low - 40.0, high + 40.0 + NODE_MM, strict=True)
    z_nodes, y_nodes, x_nodes = (np.arange(first, last, NODE_MM) for first, last in ends)
    white = rng.standard_normal((3, len(z_nodes), len(y_nodes), len(x_nodes)))
    bend = np.stack([ndimage.gaussian_filter(c, BEND_SMOOTH_MM / NODE_MM) for c in white])
    bend *= BEND_MM / np.linalg.norm(bend, axis=0).max()

    # The scan ends where the bent body would leave the atlas.
    margin = float(np.abs(bend[0]).max())
    z_low, z_high = ((e - centre[0]) * stretch[0] + centre[0] for e in (low[0], high[0]))
    slices = int((z_high - z_low - 2 * margin) // SLICE_MM) + 1
    half = PIXEL_MM * (PIXELS - 1) / 2
    affine = np.diag([PIXEL_MM, PIXEL_MM, SLICE_MM, 1.0])
    affine[:3, 3] = centre[2] - half, centre[1] - half, z_low + margin
    return Pose(
        (slices, PIXELS, PIXELS),
        affine,
        centre,
        stretch,
        (z_nodes, y_nodes, x_nodes),
        bend.astype(np.float32),
    )


def to_index(atlas: Atlas, mm: np.ndarray) -> np.ndarray:
    """Atlas LPS, components z, y, x first, to fractional array indices."""
    shape = (3,) + (1,) * (mm.ndim - 1)
    origin, step = atlas.origin_zyx_mm.reshape(shape), atlas.spacing_zyx_mm.reshape(shape)
    return (mm - origin.astype(np.float32)) / step.astype(np.float32)


def warped_labels(atlas: Atlas, pose: Pose) -> np.ndarray:
    """True labels on the patient's grid, uint8 (z, y, x), with smooth borders."""
    labels = np.zeros(pose.shape, np.uint8)
    surest = np.full(pose.shape, 0.5, np.float32)
    axes = pose.axes_mm()
    for k in atlas.names:
        where = ndimage.find_objects((atlas.labels == k).astype(np.int8))
        if not where:
            continue
        box = tuple(
            slice(*np.searchsorted(axis, ends))
            for axis, ends in zip(axes, reach_mm(atlas, pose, where[0]), strict=True)
        )
        index = to_index(atlas, pose.atlas_mm(*(a[s] for a, s in zip(axes, box, strict=True))))
        # Less than a voxel of smoothing: no organ is made of steps.
        soft = ndimage.gaussian_filter((atlas.labels == k).astype(np.float32), 0.6)
        share = ndimage.map_coordinates(soft, index, order=1, mode="nearest")
        wins = share > surest[box]
        surest[box][wins] = share[wins]
        labels[box][wins] = k
    return labels


def reach_mm(
    atlas: Atlas, pose: Pose, where: tuple[slice, slice, slice]
) -> list[tuple[float, float]]:
    """Patient LPS, low and high along z, y, x, that surely holds a box of atlas indices."""
    ends = []
    for d, part in enumerate(where):
        mm = atlas.origin_zyx_mm[d] + atlas.spacing_zyx_mm[d] * np.array(
            [part.start - 1, part.stop]
        )
        centre = pose.centre_zyx_mm[d]
        low, high = (mm - centre) * pose.stretch_zyx[d] + centre
        ends.append((low - 1.1 * BEND_MM, high + 1.1 * BEND_MM))
    return ends


def scanned(rng: np.random.RandomState, atlas: Atlas, pose: Pose) -> np.ndarray:
    """The series' pixels: body, couch and noise, int16 HU (z, y, x).

    The body is interpolated on every second row and column (still finer than the
    atlas) and brought to full size slice by slice, which keeps time and memory low.
    """
    z_mm, y_mm, x_mm = pose.axes_mm()
    coarse_y, coarse_x = (np.linspace(a[0], a[-1], PIXELS // 2) for a in (y_mm, x_mm))
    enlarge = spline_matrix(PIXELS // 2, np.linspace(0, PIXELS // 2 - 1, PIXELS))
    anatomy = atlas.hu + lobules(rng, atlas)
    coefficients = ndimage.spline_filter(anatomy, order=3, output=np.float32, mode="nearest")
    # Lungs are more than air, and the atlas's air is exact.
    near_body = ndimage.binary_dilation(atlas.hu > AIR_HU + 20.0, iterations=2).astype(np.uint8)

    body = np.empty((len(z_mm), PIXELS // 2, PIXELS // 2), np.float32)
    for start in range(0, len(z_mm), 8):
        part = slice(start, start + 8)
        index = to_index(atlas, pose.atlas_mm(z_mm[part], coarse_y, coarse_x))
        near = ndimage.map_coordinates(near_body, index, order=0, mode="nearest") > 0
        body[part] = AIR_HU
        body[part][near] = ndimage.map_coordinates(
            coefficients, index[:, near], order=3, mode="nearest", prefilter=False
        )
    rows = np.flatnonzero((body > BODY_HU).any(axis=(0, 2)))
    couch_hu, couch_share = couch(x_mm - pose.centre_zyx_mm[2], y_mm - coarse_y[rows[-1]])
    thickness = (body > BODY_HU).mean(axis=(1, 2))
    out = np.empty(pose.shape, np.int16)
    for k, (plane, noise) in enumerate(zip(body, noise_planes(rng, len(body)), strict=True)):
        hu = np.clip(enlarge @ plane @ enlarge.T, AIR_HU, None)
        hu += couch_share * np.maximum(couch_hu - hu, 0.0)
        # Shoulders stop more photons than a neck does.
        hu += noise * NOISE_HU * (0.8 + 0.8 * thickness[k] / thickness.max())
        out[k] = np.rint(hu)
    return out


def couch(x_mm: np.ndarray, y_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A flat carbon-fibre table top with a foam core.

    Parameters
    ----------
    x_mm, y_mm : numpy.ndarray, 1-D
        Distance from its middle to the Left, and from the patient's back to the Posterior.

    Returns
    -------
    tuple of numpy.ndarray, shape (y, x), float32
        Its HU, and how much of each pixel it fills, 0 to 1.
    """
    gap, half_width, thick, round_mm, skin = 3.0, 215.0, 24.0, 9.0, 2.5
    across = np.abs(x_mm)[None, :] - (half_width - round_mm)
    down = np.abs(y_mm - gap - thick / 2)[:, None] - (thick / 2 - round_mm)
    outside = np.hypot(np.maximum(across, 0), np.maximum(down, 0)) - round_mm
    depth = -(outside + np.minimum(np.maximum(across, down), 0))
    share = np.clip(depth / PIXEL_MM + 0.5, 0, 1)
    core = np.clip((depth - skin) / PIXEL_MM + 0.5, 0, 1)
    return (-150.0 * (1 - core) - 930.0 * core).astype(np.float32), share.astype(np.float32)


def noise_planes(rng: np.random.RandomState, count: int) -> Iterator[np.ndarray]:
    """Noise of filtered back-projection, one plane per slice, unit standard deviation.

    Its power rises with frequency (the ramp) and falls off with the kernel's
    cut, so neighbouring pixels are correlated as in a CT.
    """
    fy = np.fft.fftfreq(PIXELS, PIXEL_MM)[:, None]
    fx = np.fft.rfftfreq(PIXELS, PIXEL_MM)[None, :]
    cycles_per_mm = np.hypot(fy, fx)
    shape = np.sqrt(cycles_per_mm) * np.exp(-((cycles_per_mm / 0.28) ** 2))
    for _ in range(count):
        white = rng.standard_normal((PIXELS, PIXELS)).astype(np.float32)
        plane = fft.irfft2(fft.rfft2(white) * shape.astype(np.float32), s=white.shape)
        yield plane / plane.std()
