"""What the viewer refuses, in one place.

ViewerRefusal              RL-1500
├── OhifMissing            RL-1501   no OHIF build in the folder
├── OrthancUnset           RL-1502   nobody said where Orthanc is
├── ViewerPortTaken        RL-1503
├── StudyUnknown           RL-1504   `--study` names one that Orthanc does not hold
├── TarballWrong           RL-1510   another file than the one that was pinned
├── TarballUnsafe          RL-1511   an entry that would leave its folder
├── OhifNotFetched         RL-1512   npm absent or offline
└── AnsweredRefusal        RL-1519   answers of the running viewer, with their HTTP status
    ├── SaveRefused        RL-1520   403: this viewer only reads
    ├── OrthancSilent      RL-1521   502
    ├── PathRefused        RL-1522   400 or 404
    ├── HostRefused        RL-1523   403: asked for under a foreign name
    └── CredentialsRefused RL-1524   502: Orthanc does not take our user and password
"""

from __future__ import annotations

from pathlib import Path

from operators.errors import Refusal


class ViewerRefusal(Refusal):
    """The viewer can't be set up or served."""

    code = "RL-1500"


class OhifMissing(ViewerRefusal):
    """The folder holds no OHIF build."""

    code = "RL-1501"

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"{folder} holds no OHIF build (no index.html). `make ohif` fetches it; "
            "or name another folder with --ohif."
        )


class OrthancUnset(ViewerRefusal):
    """No Orthanc to show."""

    code = "RL-1502"

    def __init__(self) -> None:
        super().__init__(
            "no Orthanc to show: give --orthanc http://127.0.0.1:8042, or set orthanc_url."
        )


class ViewerPortTaken(ViewerRefusal):
    """Somebody else listens on the port."""

    code = "RL-1503"

    def __init__(self, port: int) -> None:
        super().__init__(
            f"port {port} is taken. `ss -ltnp 'sport = :{port}'` shows by whom; "
            "stop that, or choose another with --port (0 takes a free one)."
        )


class StudyUnknown(ViewerRefusal):
    """Orthanc does not hold the study."""

    code = "RL-1504"

    def __init__(self, study_uid: str, orthanc_url: str) -> None:
        super().__init__(
            f"study {study_uid} is not in Orthanc at {orthanc_url}. Check the UID, or leave "
            "--study out: the viewer lists what is there."
        )


class TarballWrong(ViewerRefusal):
    """The file is not the pinned OHIF release."""

    code = "RL-1510"

    def __init__(self, tarball: Path, found: str, expected: str) -> None:
        super().__init__(
            f"{tarball.name} has integrity {found[:19]}…, the pinned OHIF release has "
            f"{expected[:19]}…. It is not unpacked: fetch it again."
        )


class TarballUnsafe(ViewerRefusal):
    """The archive has an entry that has no business in it."""

    code = "RL-1511"

    def __init__(self, tarball: Path, entry: str, why: str) -> None:
        super().__init__(f"{tarball.name}: entry {entry!r} {why}. Nothing of it is kept.")


class OhifNotFetched(ViewerRefusal):
    """npm is absent, or could not reach its registry."""

    code = "RL-1512"

    def __init__(self, package: str, why: str) -> None:
        name = package.removeprefix("@").replace("/", "-").replace("@", "-")
        super().__init__(
            f"{package} could not be fetched ({why}). Where there is a network: "
            f"`npm pack {package}`; then here: `make ohif OHIF_TARBALL={name}.tgz`."
        )


class AnsweredRefusal(ViewerRefusal):
    """A request that is answered with a sentence.

    Attributes
    ----------
    status : int
        HTTP status of the answer.
    """

    code = "RL-1519"
    status = 400


class SaveRefused(AnsweredRefusal):
    """Something was to be stored or changed."""

    code = "RL-1520"
    status = 403

    def __init__(self, method: str) -> None:
        super().__init__(
            f"{method} refused, nothing was saved: this viewer only reads. Nobody is signed in "
            "here, and a correction that nobody signs can't be used. It is lost when the page is "
            "closed."
        )


class OrthancSilent(AnsweredRefusal):
    """Orthanc can't be reached, or broke off."""

    code = "RL-1521"
    status = 502

    def __init__(self, orthanc_url: str, error: Exception) -> None:
        super().__init__(
            f"Orthanc at {orthanc_url} does not answer ({type(error).__name__}). Start it, "
            "or correct orthanc_url, then reload the page."
        )


class PathRefused(AnsweredRefusal):
    """A path that the viewer doesn't serve; it is not quoted, it may be anything."""

    code = "RL-1522"

    def __init__(self, why: str, status: int = 400) -> None:
        self.status = status
        super().__init__(f"this path is not served: {why}.")


class HostRefused(AnsweredRefusal):
    """A page of another name asks: DNS rebinding, or a proxy that was not set up for this."""

    code = "RL-1523"
    status = 403

    def __init__(self) -> None:
        super().__init__(
            "this viewer answers only under the names localhost and 127.0.0.1 of its own machine. "
            "From another machine: ssh -L 3000:127.0.0.1:3000 to this one."
        )


class CredentialsRefused(AnsweredRefusal):
    """Orthanc wants another user or password."""

    code = "RL-1524"
    status = 502

    def __init__(self, orthanc_url: str) -> None:
        super().__init__(
            f"Orthanc at {orthanc_url} refuses the viewer's user or password. "
            "Correct orthanc_user and orthanc_password, then start the viewer again."
        )
