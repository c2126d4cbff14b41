"""A verdict to write down."""

from __future__ import annotations

from app.verdicts.record import ObjectRef, Verdict


def verdict(number: int, *, sr: str = "1.2.3", because: str | None = None) -> Verdict:
    """The `number`-th verdict: its verified SR is its own."""
    return Verdict(
        at=f"2026-01-02T03:04:{number % 60:02d}+00:00",
        verdict="rejected" if because else "confirmed",
        reader="ada",
        because=because,
        study_instance_uid="1.2",
        series_instance_uid="1.2.1",
        part="",
        bundle="test_bundle",
        weights_sha256="0" * 64,
        sr=ObjectRef(sr, "a" * 64),
        seg=ObjectRef(f"{sr}.1", "b" * 64),
        verified_sr=ObjectRef(f"9.{number}", "c" * 64),
    )
