"""UIDs that follow from what they name, so that a retry writes the same object again."""

from __future__ import annotations

import json
import uuid

# Of no meaning but to be ours and constant: changing it changes every UID that is written.
_NAMESPACE = uuid.UUID("6f1c7f0e-6d0b-5b8e-9b57-2f4a6b1d9c35")


def derive_uid(*parts: str) -> str:
    """A UID that is a function of `parts` and of nothing else.

    >>> derive_uid("a", "bc") == derive_uid("a", "bc")
    True
    >>> derive_uid("a", "bc") == derive_uid("ab", "c")
    False

    Parameters
    ----------
    *parts : str
        What the object is made from; their order and borders count.

    Returns
    -------
    str
        ``2.25.`` and a UUID of version 5 as a decimal number, at most 44 characters.

    References
    ----------
    DICOM PS3.5 B.2, UUID Derived UID.
    """
    # JSON keeps the borders between parts; plain joining would not.
    return f"2.25.{uuid.uuid5(_NAMESPACE, json.dumps(parts)).int}"
