"""A certificate authority for tests, by the openssl command."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, PEM."""

    certificate: Path
    private_key: Path


@dataclass(frozen=True)
class Authority:
    """Signs certificates into a folder."""

    folder: Path
    name: str

    @classmethod
    def make(cls, folder: Path, name: str) -> Authority:
        folder.mkdir(parents=True, exist_ok=True)
        authority = cls(folder, name)
        _openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"),
            *("-subj", f"/CN={name}", "-keyout", authority.pair.private_key),
            *("-out", authority.pair.certificate),
        )
        return authority

    @property
    def pair(self) -> Pair:
        return Pair(self.folder / f"{self.name}.pem", self.folder / f"{self.name}-key.pem")

    def sign(self, name: str, *, days: int = 30) -> Pair:
        """A certificate for `name`; days < 0: it has ended."""
        pair = Pair(self.folder / f"{name}.pem", self.folder / f"{name}-key.pem")
        request = self.folder / f"{name}.csr"
        _openssl(
            *("req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}"),
            *("-keyout", pair.private_key, "-out", request),
        )
        _openssl(
            *("x509", "-req", "-in", request, "-days", str(days), "-CAcreateserial"),
            *("-CA", self.pair.certificate, "-CAkey", self.pair.private_key),
            *("-out", pair.certificate),
        )
        return pair


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(
        ["openssl", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
