"""Settings: where a value comes from, and that a wrong one never passes in silence."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from app.addresses import parse_cstore_target
from app.settings import Settings, SettingsRefusal, load_settings
from operators.job import ExtraEvidence


@pytest.fixture(autouse=True)
def _no_other_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("RADLOOP_"):
            monkeypatch.delenv(name)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "radloop.yaml"
    monkeypatch.setenv("RADLOOP_CONFIG", str(path))
    return path


def test_keyword_beats_environment_beats_file_beats_default(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text("port: 1\nae_title: FILE\nquiet_seconds: 1\n")
    monkeypatch.setenv("RADLOOP_PORT", "2")
    monkeypatch.setenv("RADLOOP_QUIET_SECONDS", "2")

    settings = load_settings(port=3)

    assert (settings.port, settings.quiet_seconds, settings.ae_title) == (3, 2.0, "FILE")
    assert settings.max_attempts == Settings.model_fields["max_attempts"].default


def test_lists_are_lists_in_the_file_and_commas_in_the_environment(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text("allowed_calling_aets: [PACS, CT 1]\n")
    monkeypatch.setenv("RADLOOP_ALLOWED_ADDRESSES", "10.0.0.0/8, 127.0.0.1")

    settings = load_settings()

    assert settings.allowed_calling_aets == ("PACS", "CT 1")
    assert settings.allowed_addresses == ("10.0.0.0/8", "127.0.0.1")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("prt: 104", r"no setting prt \(did you mean port\?\)"),
        ("port: 70000\nquiet_seconds: 0", "port: .*; quiet_seconds: "),
        ("ae_title: SEVENTEEN-LETTERS", "ae_title: an AE title has 1 to 16"),
        ("ae_title: 'BACK\\SLASH'", "no backslash"),
        ("allowed_addresses: [10.0.0.1/8]", "10.0.0.1/8"),
        ("orthanc_url: ftp://pacs", "orthanc_url: begins with http"),
        ("orthanc_url: http://user:geheim@pacs", "holds no user or password"),
        ("deliver_to_cstore: pacs:104", "AET@host:port"),
        ("port: [", "line 3 is not YAML"),
        ("- port", "is not a table"),
    ],
)
def test_what_is_wrong_is_said_without_secrets(config: Path, content: str, problem: str) -> None:
    config.write_text(content if content[0] == "-" else f"orthanc_password: geheim\n{content}\n")

    with pytest.raises(SettingsRefusal, match=problem) as caught:
        load_settings()

    assert "geheim" not in str(caught.value)


def test_a_misspelt_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADLOOP_ORTHANC_ULR", "http://pacs")

    with pytest.raises(SettingsRefusal, match=r"orthanc_ulr \(did you mean orthanc_url\?\)"):
        load_settings()


def test_a_named_file_must_be_there(config: Path) -> None:
    with pytest.raises(SettingsRefusal, match=str(config)):
        load_settings()


def test_the_password_is_not_printed(config: Path) -> None:
    config.write_text("orthanc_password: geheim\n")

    assert "geheim" not in repr(load_settings())


@pytest.mark.parametrize("target", ["A@h:0", "A@h:65536", "@h:1", "A@h", "SEVENTEEN-LETTERS@h:1"])
def test_c_store_targets_are_checked(target: str) -> None:
    with pytest.raises(ValueError, match=r"AE title|AET@host:port"):
        parse_cstore_target(target)

    assert parse_cstore_target("ARC HIVE@10.0.0.1:104") == ("ARC HIVE", "10.0.0.1", 104)


@pytest.mark.parametrize(
    ("value", "extra"), [("", ()), ("pdf", ("pdf",)), ("key_images, pdf", ("key_images", "pdf"))]
)
def test_extra_evidence_is_a_list_of_what_there_is(
    monkeypatch: pytest.MonkeyPatch, value: str, extra: tuple[str, ...]
) -> None:
    monkeypatch.setenv("RADLOOP_EXTRA_EVIDENCE", value)
    assert load_settings().extra_evidence == extra
    assert set(extra) <= set(get_args(ExtraEvidence))

    monkeypatch.setenv("RADLOOP_EXTRA_EVIDENCE", "pictures")
    with pytest.raises(SettingsRefusal, match="extra_evidence"):
        load_settings()
