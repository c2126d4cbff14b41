"""Mutual TLS, with dcmtk as the peer: who is let in, and that the others leave nothing behind."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.demo.orthanc import free_port
from app.intake.tls import TlsError, TlsFileError, expires_at, listener_context
from tests.app.conftest import Listener, start_listener  # noqa: F401
from tests.app.instances import instance, write
from tests.e2e.certificates import Authority, Pair

STORESCU = Path("/usr/bin/storescu")  # pynetdicom installs another one of that name
pytestmark = pytest.mark.skipif(
    not STORESCU.exists() or shutil.which("openssl") is None, reason="needs dcmtk and openssl"
)
NO_NAGLE = {**os.environ, "TCP_NODELAY": "1"}


class Site:
    """Certificates, and what dcmtk needs to be a peer."""

    def __init__(self, folder: Path) -> None:
        self.ours = Authority.make(folder / "ours", "hospital")
        self.theirs = Authority.make(folder / "theirs", "stranger")
        self.server = self.ours.sign("radloop")
        self.valid = self.ours.sign("pacs")
        self.expired = self.ours.sign("old-pacs", days=-1)
        self.foreign = self.theirs.sign("foreign-pacs")
        self.files = write(folder / "out", instance(1), instance(2))

    def settings(self) -> dict[str, Path]:
        return {
            "tls_certificate": self.server.certificate,
            "tls_private_key": self.server.private_key,
            "tls_ca": self.ours.pair.certificate,
        }

    def send(self, port: int, *options: str | Path, calling: str = "PACS") -> int:
        """Exit code of storescu."""
        done = subprocess.run(
            [STORESCU, "-to", "10", "-aet", calling, *options, "127.0.0.1", str(port), *self.files],
            capture_output=True,
            text=True,
            env=NO_NAGLE,
            timeout=60,
            check=False,
        )
        return done.returncode

    def with_certificate(self, pair: Pair) -> list[str | Path]:
        ca = self.ours.pair.certificate
        return ["+tls", pair.private_key, pair.certificate, "+cf", ca]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("pki"))


def test_only_a_valid_certificate_and_a_listed_title_get_in(
    site: Site,
    start_listener: Callable[..., Listener],  # noqa: F811
) -> None:
    listener = start_listener(**site.settings(), allowed_calling_aets=("PACS",))
    ca = site.ours.pair.certificate
    refused: dict[str, tuple[list[str | Path], str]] = {
        "plaintext": ([], "PACS"),
        "no certificate": (["+tla", "+cf", ca], "PACS"),
        "foreign": (site.with_certificate(site.foreign), "PACS"),
        "expired": (site.with_certificate(site.expired), "PACS"),
        "unlisted title": (site.with_certificate(site.valid), "STRANGER"),
    }

    let_in = [
        why
        for why, (options, calling) in refused.items()
        if site.send(listener.port, *options, calling=calling) == 0
    ]

    assert let_in == []
    assert listener.files() == [] == listener.rows()
    assert site.send(listener.port, *site.with_certificate(site.valid)) == 0
    assert len(listener.rows()) == 2
    assert len(listener.files()) == 2


def test_without_a_ca_any_peer_may_come_but_only_encrypted(
    site: Site,
    start_listener: Callable[..., Listener],  # noqa: F811
) -> None:
    listener = start_listener(**{**site.settings(), "tls_ca": None})

    assert site.send(listener.port) != 0
    assert listener.files() == []
    assert site.send(listener.port, "+tla", "+cf", site.ours.pair.certificate) == 0
    assert len(listener.rows()) == 2


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_nothing_older_than_tls_1_2(
    site: Site,
    start_listener: Callable[..., Listener],  # noqa: F811
    version: ssl.TLSVersion,
) -> None:
    listener = start_listener(**{**site.settings(), "tls_ca": None})
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.minimum_version = old.maximum_version = version
    old.set_ciphers("ALL:@SECLEVEL=0")

    with (
        socket.create_connection(("127.0.0.1", listener.port)) as plain,
        pytest.raises(ssl.SSLError),
    ):
        old.wrap_socket(plain)


def test_peers_silent_in_the_handshake_delay_nobody_and_are_dropped(
    site: Site,
    start_listener: Callable[..., Listener],  # noqa: F811
) -> None:
    listener = start_listener(**site.settings())
    assert site.send(listener.port, *site.with_certificate(site.valid)) == 0
    silent = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(8)]
    silent[0].sendall(b"\x16\x03\x01\x02\x00\x01")  # the head of a ClientHello, then nothing

    began = time.monotonic()
    assert site.send(listener.port, *site.with_certificate(site.valid)) == 0
    assert time.monotonic() - began < 3.0

    for peer in silent:
        peer.settimeout(15.0)
        assert peer.recv(1024) == b""
        peer.close()


def test_what_is_wrong_with_a_file_is_said_with_its_name(site: Site, tmp_path: Path) -> None:
    good, ca = site.server, site.ours.pair.certificate
    empty, protected = tmp_path / "empty.pem", tmp_path / "protected.pem"
    empty.write_text("nothing")
    subprocess.run(
        [
            *["openssl", "rsa", "-aes128", "-passout", "pass:x", "-in"],
            good.private_key,
            "-out",
            protected,
        ],
        check=True,
        capture_output=True,
    )
    wrong: list[tuple[Path | None, Path | None, Path | None, str]] = [
        (tmp_path / "no.pem", good.private_key, ca, r"no\.pem: can't be read \(No such file"),
        (empty, good.private_key, ca, r"empty\.pem: holds no PEM block"),
        (good.certificate, empty, ca, r"empty\.pem: holds no PEM block"),
        (good.certificate, good.private_key, empty, r"empty\.pem: holds no PEM block"),
        (good.certificate, site.valid.private_key, ca, "pacs-key.pem: is not the key of"),
        (good.certificate, protected, ca, "protected by a passphrase"),
        (good.certificate, None, None, "needed both"),
        (None, None, ca, "tls_ca only with them"),
    ]
    for certificate, private_key, authority, why in wrong:
        with pytest.raises(TlsError, match=why):
            listener_context(certificate, private_key, authority)
    assert listener_context(None, None, None) is None


def test_expiry_is_read_and_an_ended_certificate_named(site: Site) -> None:
    days = (expires_at(site.server.certificate, site.server.private_key) - time.time()) / 86400
    assert days == pytest.approx(30, abs=0.1)

    with pytest.raises(TlsFileError, match="expired"):
        expires_at(site.expired.certificate, site.expired.private_key)


def test_serve_refuses_and_the_doctor_says_why(site: Site, tmp_path: Path) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RADLOOP_")}
    environment = {
        **clean,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "RADLOOP_HOST": "127.0.0.1",
        "RADLOOP_PORT": str(free_port()),
        "RADLOOP_TLS_CERTIFICATE": str(tmp_path / "gone.pem"),
        "RADLOOP_TLS_PRIVATE_KEY": str(site.server.private_key),
        "COLUMNS": "300",
    }

    def radloop(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "app.cli.main", *words]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    served, looked = radloop("serve"), radloop("doctor")
    assert served.returncode != 0
    assert "RL-0623" in served.stderr and "gone.pem: can't be read" in served.stderr
    assert "Traceback" not in served.stderr
    assert "gone.pem: can't be read" in looked.stdout

    environment["RADLOOP_TLS_CERTIFICATE"] = str(site.server.certificate)
    assert "in 30 days" in radloop("doctor").stdout
