"""What libraries say about the data they read stays out of our streams.

pydicom logs and warns with the offending value in the sentence ("Invalid value
for VR …"), which may be a birth date or a name. Ours say tag, count and UID.
"""

from __future__ import annotations

import logging
import sys
import warnings

CHATTY = ("pydicom", "pynetdicom", "highdicom", "monai")


def silence_libraries() -> None:
    """Call once at the start of every process that reads DICOM."""
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if not sys.warnoptions:  # a developer's `python -W` still shows them
        warnings.simplefilter("ignore")
