"""Why the API does not do what it is asked: RL-1400 to RL-1429.

ApiRefusal
├── ApiNeedsToken      RL-1401   at start
├── ApiPortTaken       RL-1402   at start
├── ApiFolderUnusable  RL-1403   at start
├── NotAllowed         RL-1404   401
├── ForeignPage        RL-1405   403
├── BodyTooLarge       RL-1406   413
├── BodyUnusable       RL-1407   400, 408, 411, 415
├── FieldWrong         RL-1408   422
├── ImageUnusable      RL-1409   422
├── NoRoom             RL-1410   507
├── TooBusy            RL-1411   503
├── WorkerLost         RL-1412   503
├── TookTooLong        RL-1413   504
├── Stopping           RL-1414   503
├── UnknownPath        RL-1415   404, 405
├── JobRunning         RL-1416   409
├── Defect             RL-1417   500
└── CallerGone         RL-1418   nobody reads it

Each bears the status that it is answered with. Nothing that a caller sent is
repeated in a sentence: it may hold a name.
"""

from __future__ import annotations

from operators.errors import Refusal


class ApiRefusal(Refusal):
    """The API says no."""

    code = "RL-1400"
    status = 500


class ApiNeedsToken(ApiRefusal):
    """Reachable from other machines, and open to all of them."""

    code = "RL-1401"

    def __init__(self, host: str) -> None:
        super().__init__(
            f"api_host {host} is reachable from other machines and api_token is not set. "
            "Set a token (RADLOOP_API_TOKEN), or listen on 127.0.0.1."
        )


class ApiPortTaken(ApiRefusal):
    """The API can't have its port."""

    code = "RL-1402"

    def __init__(self, host: str, port: int, why: str) -> None:
        super().__init__(
            f"the API can't listen on {host}:{port} ({why}). `ss -ltnp 'sport = :{port}'` shows "
            "who has it; stop that, or choose another port (RADLOOP_API_PORT)."
        )


class ApiFolderUnusable(ApiRefusal):
    """Uploads have no private place."""

    code = "RL-1403"

    def __init__(self, folder: object, why: str) -> None:
        super().__init__(
            f"folder {folder} can't hold uploads ({why}). Make the spool writable for this user."
        )


class NotAllowed(ApiRefusal):
    """No token, or the wrong one."""

    code, status = "RL-1404", 401

    def __init__(self) -> None:
        super().__init__("send the header `Authorization: Bearer TOKEN` with the site's api_token.")


class ForeignPage(ApiRefusal):
    """A web page of somebody else asks, through a browser of this machine."""

    code, status = "RL-1405", 403

    def __init__(self, header: str) -> None:
        super().__init__(
            f"the {header} header names another site. The API answers programs, not web pages of "
            "other origins; call it by the address that `radloop serve` printed."
        )


class BodyTooLarge(ApiRefusal):
    """More than is read."""

    code, status = "RL-1406", 413

    def __init__(self, what: str, limit: int, unit: str = "bytes") -> None:
        super().__init__(f"{what} exceeds {limit} {unit}. Send less, or send the study by C-STORE.")


class BodyUnusable(ApiRefusal):
    """A body that is not what its headers say."""

    code = "RL-1407"

    def __init__(self, why: str, status: int = 400) -> None:
        self.status = status
        super().__init__(why)


class FieldWrong(ApiRefusal):
    """A field that is missing, doubled or out of range."""

    code, status = "RL-1408", 422

    def __init__(self, field: str, why: str) -> None:
        self.field = field
        super().__init__(f"{field} {why}.")


class ImageUnusable(ApiRefusal):
    """An upload that is no image which could be analysed."""

    code, status = "RL-1409", 422

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")


class NoRoom(ApiRefusal):
    """The disk's reserve is reached."""

    code, status = "RL-1410", 507

    def __init__(self) -> None:
        super().__init__("the spool's disk is full or at its reserve (min_free_bytes). Free some.")


class TooBusy(ApiRefusal):
    """As many callers as are let in."""

    code, status = "RL-1411", 503

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} analyses are already waiting or in work. Try again later.")


class WorkerLost(ApiRefusal):
    """The analysis ended without a result."""

    code, status = "RL-1412", 503

    def __init__(self, reason: str) -> None:
        super().__init__(f"no result ({reason}). Nothing was kept; sending it again may do better.")


class TookTooLong(ApiRefusal):
    """The time limit was reached."""

    code, status = "RL-1413", 504

    def __init__(self, reason: str) -> None:
        super().__init__(f"no result in time ({reason}). Nothing was kept.")


class Stopping(ApiRefusal):
    """The service ends."""

    code, status = "RL-1414", 503

    def __init__(self) -> None:
        super().__init__("radloop is stopping. Try again when it is back.")


class UnknownPath(ApiRefusal):
    """There is nothing here, or not by this method."""

    code = "RL-1415"

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__("no such path or method. /openapi.json lists what there is.")


class JobRunning(ApiRefusal):
    """One training at a time."""

    code, status = "RL-1416", 409

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job {job_id} is running; one at a time. GET /api/v1/jobs/{job_id}.")


class Defect(ApiRefusal):
    """A fault of ours."""

    code, status = "RL-1417", 500

    def __init__(self) -> None:
        super().__init__("a defect of radloop; its log names the place. Nothing was kept.")


class CallerGone(ApiRefusal):
    """The caller hung up."""

    code, status = "RL-1418", 499

    def __init__(self) -> None:
        super().__init__("the caller went away.")
