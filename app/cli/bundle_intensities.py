"""`radloop bundles intensities`: what the values of a bundle's training images are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from app.cli.exit_codes import Exit


def intensities(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="NIfTI images that the network was trained on, values in the card's unit.",
            metavar="FILE...",
        ),
    ],
    above: Annotated[
        float, typer.Option(help="Count only voxels above this value: leave the air out.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of YAML.")] = False,
) -> None:
    """Measure the block `accepts: intensities` of a card; print it.

    A study whose percentiles are farther outside than half of what the training images span
    is analysed with the remark unusual-intensities.

    Example: radloop bundles intensities --above -150 training/ct/*.nii.gz
    """
    import nibabel
    import numpy as np
    import yaml

    from operators.study.intensities import Intensities

    def image(file: Path) -> nibabel.spatialimages.SpatialImage:
        found = nibabel.load(file)
        if not isinstance(found, nibabel.spatialimages.SpatialImage):
            raise nibabel.filebasedimages.ImageFileError(f"{file} holds no image")
        return found

    try:
        known = Intensities.over((np.asanyarray(image(file).dataobj) for file in files), above)
    except (nibabel.filebasedimages.ImageFileError, OSError, EOFError) as error:
        typer.echo(f"not a NIfTI image that can be read: {error}", err=True)
        raise typer.Exit(Exit.USAGE) from error
    except ValueError as error:
        typer.echo(f"{error}: give --above in the unit of the values", err=True)
        raise typer.Exit(Exit.USAGE) from error
    block = {
        "above": known.above,
        "bands": [
            {"percentile": band.percentile, "lowest": band.lowest, "highest": band.highest}
            for band in known.bands
        ],
    }
    if as_json:
        typer.echo(json.dumps(block, indent=1))
    else:
        typer.echo(f"# over {len(files)} images")
        typer.echo(yaml.safe_dump({"intensities": block}, sort_keys=False).rstrip())
