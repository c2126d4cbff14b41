"""Certificates of a small authority, made by openssl: valid ones, and others."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Signed:
    """A certificate and its key, PEM."""

    certificate: Path
    private_key: Path


class Authority:
    """Signs certificates; its own is `ca`."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed (Debian: openssl)")
        folder.mkdir(parents=True)
        self._folder = folder
        self.ca, self._key = folder / "ca.pem", folder / "ca.key"
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-subj", f"/CN=authority {folder.name}", "-days", "2"),
            *("-keyout", self._key, "-out", self.ca),
        )

    def sign(self, name: str, *, host: str = "IP:127.0.0.1") -> Signed:
        """A certificate for a host, as subjectAltName writes it."""
        signed = Signed(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-subj", f"/CN={name}", "-days", "1", "-addext", f"subjectAltName={host}"),
            *("-addext", "basicConstraints=critical,CA:FALSE"),
            *("-CA", self.ca, "-CAkey", self._key),
            *("-keyout", signed.private_key, "-out", signed.certificate),
        )
        return signed


def _openssl(*words: str | Path) -> None:
    done = subprocess.run(
        ["openssl", *map(str, words)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
