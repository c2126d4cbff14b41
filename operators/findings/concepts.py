"""What each measurement is called: machine name, coded concept, UCUM unit.

Concepts are those of PS3.16 (CID 7464, 7469, 7470) and of the Image Biomarker
Standardisation Initiative where DICOM took them over. Where neither has one, the code
is our own (99RADLOOP), so that nothing passes for something that it is not.
"""

from __future__ import annotations

from dataclasses import dataclass

from operators.job import Code, Volume

PRIVATE = "99RADLOOP"

VOLUME = Code("118565006", "SCT", "Volume")
AREA = Code("42798000", "SCT", "Area")
SURFACE_AREA = Code("surface-area", PRIVATE, "Surface area")
COMPONENTS = Code("components", PRIVATE, "Number of connected components")
LONG_AXIS = Code("103339001", "SCT", "Long Axis")
SHORT_AXIS = Code("103340004", "SCT", "Short Axis")
LONG_AXIS_3D = Code("L0JK", "IBSI", "Maximum 3D Diameter of a Mesh")
# Along the patient's axes; PS3.16 calls the three sides of a box so.
WIDTH = Code("103355008", "SCT", "Width")
DEPTH = Code("131197000", "SCT", "Depth")
HEIGHT = Code("121207", "DCM", "Height")

MEAN = Code("373098007", "SCT", "Mean")
STANDARD_DEVIATION = Code("386136009", "SCT", "Standard Deviation")
MINIMUM = Code("255605001", "SCT", "Minimum")
PERCENTILE_05 = Code("371888009", "SCT", "Fifth percentile")
MEDIAN = Code("373099004", "SCT", "Median")
PERCENTILE_95 = Code("371889001", "SCT", "Ninety-fifth percentile")
MAXIMUM = Code("56851009", "SCT", "Maximum")

MILLILITRE = Code("mL", "UCUM", "milliliter")
MILLIMETRE = Code("mm", "UCUM", "millimeter")
SQUARE_MILLIMETRE = Code("mm2", "UCUM", "square millimeter")
PIXELS = Code("{pixels}", "UCUM", "Pixels")
NO_UNITS = Code("1", "UCUM", "no units")
HOUNSFIELD = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
GRAM_PER_MILLILITRE = Code("{SUVbw}g/ml", "UCUM", "Standardized Uptake Value body weight")

_ATTENUATION = Code("112031", "DCM", "Attenuation Coefficient")
_SUV_BODY_WEIGHT = Code("126401", "DCM", "SUVbw")
_MR_SIGNAL = Code("110852", "DCM", "MR signal intensity")


@dataclass(frozen=True)
class Intensity:
    """What the values of a volume are: a quantity, if it has a name, and its unit."""

    quantity: Code | None
    unit: Code

    def coded(self, derivation: Code) -> tuple[Code, Code | None]:
        """Concept and derivation of one statistic of the values.

        Without a name for the quantity, the statistic itself is what is measured.
        """
        return (derivation, None) if self.quantity is None else (self.quantity, derivation)


def intensity_of(volume: Volume) -> Intensity:
    """Quantity (CID 7469) and unit (UCUM) of a volume's values."""
    if volume.unit == "HU":
        return Intensity(_ATTENUATION, HOUNSFIELD)
    if volume.unit == "SUVbw":
        return Intensity(_SUV_BODY_WEIGHT, GRAM_PER_MILLILITRE)
    is_mr = volume.headers[0].get("Modality") == "MR"
    return Intensity(_MR_SIGNAL if is_mr else None, NO_UNITS)
