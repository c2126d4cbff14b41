"""Where results go, as a site writes it: the same names for the one and for each of several.

Part of `app.settings`. A destination is told by its address (`orthanc_url`,
`deliver_to_…`); written at the top of the settings its key is its kind, written below
`destinations` it is the name that stands there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

Kind = Literal["orthanc", "folder", "cstore", "stow"]

ADDRESS_OF: dict[Kind, str] = {
    "orthanc": "orthanc_url",
    "folder": "deliver_to_folder",
    "cstore": "deliver_to_cstore",
    "stow": "deliver_to_stow",
}
_KEY = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_TAKEN = (*ADDRESS_OF, "all", "none")  # what stands at the top, and what routes say

_AE_TITLE = re.compile(r"[\x21-\x5b\x5d-\x7e][\x20-\x5b\x5d-\x7e]{0,15}")
_CSTORE_TARGET = re.compile(r"(?P<aet>[^@]{1,16})@(?P<host>[^@]+):(?P<port>\d{1,5})")


def check_ae_title(value: str) -> str:
    """An AE title as PS3.5 6.2 allows it: 1 to 16 printable ASCII characters, no backslash."""
    if not _AE_TITLE.fullmatch(value):
        raise ValueError("an AE title has 1 to 16 ASCII characters and no backslash")
    return value


def check_key(value: str) -> str:
    """A name below `destinations`."""
    if not _KEY.fullmatch(value) or value in _TAKEN:
        raise ValueError(
            "is named in up to 32 of a-z, 0-9, _ and -, a letter first, and not "
            + ", ".join(_TAKEN)
        )
    return value


def check_http_url(value: str | None) -> str | None:
    """An address without a password, and without a slash at its end."""
    if value is not None and not re.fullmatch(r"https?://[^/@]+(/[^@]*)?", value):
        raise ValueError("begins with http:// or https:// and holds no user or password")
    return value.rstrip("/") if value else None


def parse_cstore_target(target: str) -> tuple[str, str, int]:
    """Split ``AET@host:port``.

    Returns
    -------
    tuple of (str, str, int)
        AE title, host, port.

    Raises
    ------
    ValueError
        Another form.
    """
    found = _CSTORE_TARGET.fullmatch(target)
    if not found or not 0 < int(found["port"]) < 65536:
        raise ValueError("is written AET@host:port")
    return check_ae_title(found["aet"]), found["host"], int(found["port"])


class Addresses(BaseModel):
    """Addresses of destinations, one of each kind at most, and what belongs to them.

    Attributes
    ----------
    orthanc_url : str or None
        Orthanc's REST root, e.g. ``http://127.0.0.1:8042``.
    orthanc_user, orthanc_password : str or None, SecretStr or None
        Its basic authentication.
    deliver_to_folder : Path or None
        A folder that gets a copy of every result.
    deliver_to_cstore : str or None
        An archive that takes C-STORE, as ``AET@host:port``.
    cstore_tls_ca : Path or None
        PEM: who signs its certificate; set, it is called over TLS.
    cstore_tls_certificate, cstore_tls_private_key : Path or None
        PEM: what we show it, where it asks for a certificate.
    cstore_commitment : bool
        Whether "delivered" waits for the archive's storage commitment.
    cstore_commitment_ae_title, cstore_commitment_port : str, int
        As whom we ask for it, and where its answers come in: the archive has to know this
        AE title at this machine and port.
    deliver_to_stow : str or None
        Root of a DICOMweb server (STOW-RS, WADO-RS), e.g. ``https://pacs/dicom-web``.
    stow_user, stow_password, stow_token : str or None, SecretStr or None, SecretStr or None
        Its basic authentication, or a bearer token.
    """

    orthanc_url: str | None = None
    orthanc_user: str | None = None
    orthanc_password: SecretStr | None = None
    deliver_to_folder: Path | None = None
    deliver_to_cstore: str | None = None
    cstore_tls_ca: Path | None = None
    cstore_tls_certificate: Path | None = None
    cstore_tls_private_key: Path | None = None
    cstore_commitment: bool = False
    cstore_commitment_ae_title: str = "RADLOOP_SC"
    cstore_commitment_port: int = Field(default=11113, ge=1, le=65535)
    deliver_to_stow: str | None = None
    stow_user: str | None = None
    stow_password: SecretStr | None = None
    stow_token: SecretStr | None = None

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Of which kinds there is an address."""
        return tuple(kind for kind, address in ADDRESS_OF.items() if getattr(self, address))

    @field_validator("cstore_commitment_ae_title")
    @classmethod
    def _commitment_title(cls, value: str) -> str:
        return check_ae_title(value)

    @field_validator(
        "deliver_to_folder", "cstore_tls_ca", "cstore_tls_certificate", "cstore_tls_private_key"
    )
    @classmethod
    def _absolute_path(cls, value: Path | None) -> Path | None:
        return value.expanduser().absolute() if value is not None else None

    @field_validator("orthanc_url", "deliver_to_stow")
    @classmethod
    def _root(cls, value: str | None) -> str | None:
        return check_http_url(value)

    @field_validator("deliver_to_cstore")
    @classmethod
    def _cstore(cls, value: str | None) -> str | None:
        if value:
            parse_cstore_target(value)
        return value or None

    @model_validator(mode="after")
    def _cstore_tls(self) -> Addresses:
        shown = (self.cstore_tls_certificate, self.cstore_tls_private_key)
        if any(shown) and not (all(shown) and self.cstore_tls_ca):
            raise ValueError(
                "cstore_tls_certificate and cstore_tls_private_key need each other, and "
                "cstore_tls_ca"
            )
        if self.cstore_commitment and self.cstore_tls_ca and not all(shown):
            raise ValueError(
                "cstore_commitment over TLS needs cstore_tls_certificate and "
                "cstore_tls_private_key: the archive calls back"
            )
        return self


class NamedAddress(Addresses):
    """One destination, below its key."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @model_validator(mode="after")
    def _one(self) -> NamedAddress:
        if len(self.kinds) != 1:
            addresses = ", ".join(ADDRESS_OF.values())
            raise ValueError(f"has {len(self.kinds)} addresses, not one of {addresses}")
        return self
