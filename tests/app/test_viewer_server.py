"""The viewer's server before a stand-in for Orthanc that writes down what reaches it."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from app.demo.orthanc import free_port
from app.viewer.proxy import OrthancAddress
from app.viewer.refusals import OhifMissing, OrthancSilent, ViewerPortTaken
from app.viewer.server import running_viewer, study_link
from app.viewer.studies import list_studies

BODY = bytes(range(256)) * 1024
ISOLATED = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Seen(ThreadingHTTPServer):
    """A server that answers everything with `BODY`, and keeps what it was asked."""

    def __init__(self) -> None:
        self.begin()

        class Answer(BaseHTTPRequestHandler):
            server: Seen

            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                self.server.asked.append((self.command, self.path, headers))
                self.send_response(self.server.status)
                self.send_header("Content-Type", "multipart/related; boundary=x")
                self.send_header("Content-Length", str(self.server.promised))
                self.send_header("Set-Cookie", "session=1")
                self.end_headers()
                self.wfile.write(BODY)

            def log_message(self, *arguments: object) -> None:
                del arguments

        super().__init__(("127.0.0.1", 0), Answer)

    def begin(self) -> None:
        """Forget what was asked, and answer well."""
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.status = 200
        self.promised = len(BODY)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    with Seen() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def orthanc(seen: Seen) -> Seen:
    """The stand-in, as new."""
    seen.begin()
    return seen


@pytest.fixture(scope="module")
def ohif(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like OHIF's build, with something to steal beside it."""
    tmp_path = tmp_path_factory.mktemp("viewer")
    folder = tmp_path / "ohif"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("the page")
    (folder / "app-config.js").write_text("the build's own")
    (folder / "0ddf166f7a343eda.wasm").write_bytes(b"\0asm")
    (tmp_path / "secret.txt").write_text("a secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    return folder


@pytest.fixture(scope="module")
def root(ohif: Path, seen: Seen) -> Iterator[str]:
    with running_viewer(ohif, OrthancAddress(seen.url, ("reader", "geheim"))) as running:
        yield running


def ask(
    root: str, path: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """A request whose path is sent exactly as written."""
    connection = http.client.HTTPConnection(urlsplit(root).netloc, timeout=20)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def titled(headers: dict[str, str]) -> dict[str, str]:
    return {name.title(): value for name, value in headers.items()}


@pytest.mark.parametrize("path", ["/", "/viewer?StudyInstanceUIDs=1.2.3", "/no/such/file.js"])
def test_what_is_no_file_is_the_page_isolated_from_other_origins(root: str, path: str) -> None:
    status, headers, body = ask(root, path)

    assert (status, body) == (200, b"the page")
    assert titled(headers).items() >= ISOLATED.items()
    assert "default-src 'self'" in titled(headers)["Content-Security-Policy"]


def test_our_configuration_takes_the_place_of_the_builds(root: str) -> None:
    status, headers, body = ask(root, "/app-config.js")

    assert status == 200 and b"sourceName: 'orthanc'" in body
    assert titled(headers)["Content-Type"].startswith("text/javascript")


def test_wasm_has_the_type_without_which_no_browser_runs_it(root: str) -> None:
    status, headers, body = ask(root, "/0ddf166f7a343eda.wasm")

    assert (status, body) == (200, b"\0asm")
    assert titled(headers)["Content-Type"] == "application/wasm"
    assert "immutable" in titled(headers)["Cache-Control"]


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/assets/..%2f..%2fsecret.txt",
        "/assets/%2e%2e/%2e%2e/secret.txt",
        "/..%5csecret.txt",
        "/link.txt",
        "//etc/passwd",
        "/%00",
    ],
)
def test_no_path_leads_out_of_the_folder(root: str, path: str) -> None:
    status, _, body = ask(root, path)

    assert b"secret" not in body.replace(b"secret.txt", b"") and b"root:" not in body
    assert status in (400, 404) or body == b"the page"


@pytest.mark.parametrize(
    "path", ["/dicom-web/studies/1.2/series?limit=5&00080061=CT%5CMR", "/wado?requestType=WADO"]
)
def test_reading_goes_through_with_our_credentials_and_not_the_browsers(
    root: str, orthanc: Seen, path: str
) -> None:
    status, headers, body = ask(
        root,
        path,
        Accept="multipart/related; type=application/octet-stream; transfer-syntax=*",
        Cookie="mine=1",
        Authorization="Bearer mine",
    )

    assert (status, body) == (200, BODY)
    assert titled(headers)["Content-Type"] == "multipart/related; boundary=x"
    assert titled(headers)["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in titled(headers)
    ((method, asked, sent),) = orthanc.asked
    assert (method, asked) == ("GET", path)
    assert sent["authorization"] == "Basic cmVhZGVyOmdlaGVpbQ=="  # reader:geheim
    assert "cookie" not in sent
    assert "transfer-syntax=*" in sent["accept"]
    assert sent["forwarded"] == f"host={urlsplit(root).netloc};proto=http"


def test_head_has_no_body(root: str, orthanc: Seen) -> None:
    status, headers, body = ask(root, "/dicom-web/studies", "HEAD")

    assert (status, body) == (200, b"")
    assert titled(headers)["Content-Type"].startswith("multipart")
    assert len(orthanc.asked) == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["/dicom-web/studies", "/dicom-web/studies/1.2", "/wado"])
def test_nothing_is_stored_or_changed_and_it_says_so(
    root: str, orthanc: Seen, method: str, path: str
) -> None:
    status, headers, body = ask(root, path, method, b"an object")

    assert status == 403
    assert body.startswith(b"RL-1520") and b"nothing was saved" in body
    assert titled(headers).items() >= ISOLATED.items()
    assert orthanc.asked == []


def test_options_says_what_may_be_asked(root: str, orthanc: Seen) -> None:
    status, headers, _ = ask(root, "/dicom-web/studies", "OPTIONS")

    assert status == 204 and titled(headers)["Allow"] == "GET, HEAD, OPTIONS"
    assert orthanc.asked == []


@pytest.mark.parametrize(
    "path",
    [
        "/dicom-web/servers",
        "/dicom-web/",
        "/dicom-web/../system",
        "/dicom-web/studies/%2e%2e/%2e%2e/system",
        "/dicom-web/studies/..%2f..%2fpatients",
        "/dicom-web/studies/..",
    ],
)
def test_nothing_but_dicomweb_reaches_orthanc(root: str, orthanc: Seen, path: str) -> None:
    status, _, body = ask(root, path)

    assert status in (400, 404) and body.startswith(b"RL-1522")
    assert orthanc.asked == []


@pytest.mark.parametrize("path", ["/system", "/instances", "/tools/find", "/patients"])
def test_orthancs_own_interface_is_only_a_page(root: str, orthanc: Seen, path: str) -> None:
    assert ask(root, path)[2] == b"the page"
    assert ask(root, path, "POST", b"{}")[0] == 405
    assert orthanc.asked == []


@pytest.mark.parametrize("path", ["/", "/dicom-web/studies"])
def test_a_foreign_name_is_refused(root: str, orthanc: Seen, path: str) -> None:
    port = urlsplit(root).port
    assert ask(root, path, Host=f"evil.example:{port}")[0] == 403
    assert ask(root, path, Host=f"localhost:{port}")[0] == 200
    assert all(name == path for _, name, _ in orthanc.asked)


def test_orthanc_that_is_down_is_a_502_with_a_sentence(ohif: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with running_viewer(ohif, OrthancAddress(url)) as root:
        status, _, body = ask(root, "/dicom-web/studies")

    assert status == 502
    assert body.startswith(b"RL-1521") and url.encode() in body


def test_credentials_that_orthanc_refuses_are_not_asked_of_the_browser(
    root: str, orthanc: Seen
) -> None:
    orthanc.status = 401
    status, headers, body = ask(root, "/dicom-web/studies")

    assert status == 502 and body.startswith(b"RL-1524")
    assert "Www-Authenticate" not in titled(headers) and b"geheim" not in body


def test_an_answer_that_breaks_off_does_not_look_whole(root: str, orthanc: Seen) -> None:
    orthanc.promised = len(BODY) + 1

    with pytest.raises(http.client.IncompleteRead):
        ask(root, "/dicom-web/studies/1/series/2/instances/3")


def test_a_refusal_of_orthanc_is_passed_on(root: str, orthanc: Seen) -> None:
    orthanc.status = 404

    assert ask(root, "/dicom-web/studies/1.2.3/metadata")[0] == 404


def test_a_folder_without_a_build_says_how_to_get_one(tmp_path: Path) -> None:
    with (
        pytest.raises(OhifMissing, match="make ohif"),
        running_viewer(tmp_path, OrthancAddress("http://127.0.0.1:1")),
    ):
        pass


def test_a_port_that_is_taken_is_named(ohif: Path, orthanc: Seen) -> None:
    port = orthanc.server_port
    with (
        pytest.raises(ViewerPortTaken, match=f"port {port} is taken"),
        running_viewer(ohif, OrthancAddress(orthanc.url), port),
    ):
        pass


def test_a_list_that_is_no_dicomweb_is_no_list(orthanc: Seen) -> None:
    with pytest.raises(OrthancSilent):
        list_studies(OrthancAddress(orthanc.url), limit=5)


def test_a_link_quotes_what_it_is_given() -> None:
    assert study_link("http://h", "1.2&x=3") == "http://h/viewer?StudyInstanceUIDs=1.2%26x%3D3"
