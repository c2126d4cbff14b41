"""The paths: the roadmap's three, a job's state, and whether we live.

No path does anything that takes long in the event loop: files, hashes and pictures go
to threads, analyses to the worker, trainings to child processes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from app.api import answers
from app.api.answers import FineTuneStarted, HybridAnswer, LocalAnswer
from app.api.capture import MODALITY, put_capture
from app.api.counter import Counter, Ticket
from app.api.hybrid import Comparison
from app.api.images import Uploaded, inspect
from app.api.jobs import Job, Jobs
from app.api.refusals import ApiRefusal, BodyUnusable, Defect, FieldWrong, UnknownPath
from app.api.upload import IMAGE, receive_form
from app.compare.claude import Claude
from app.settings import Settings
from operators.study.image_type import IMAGE_TYPES

CONTEXT_LIMIT = 10_000
NO_BUNDLE_FOR_PICTURES = "no bundle takes a picture of a CT or MR slice; send the DICOM series."
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_LOCAL_FIELDS = frozenset({"image_type", "clinical_context"})
_HYBRID_FLAGS = ("use_local_only", "context_is_deidentified", "pixels_are_deidentified")


class FineTune(BaseModel):
    """Body of model/fine-tune."""

    model_config = ConfigDict(extra="forbid", strict=True)

    use_validated_cases: bool
    max_cases: int = Field(default=500, ge=1, le=100_000)
    epochs: int = Field(default=3, ge=1, le=1000)
    bundle: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_]{1,64}$")


@dataclass(frozen=True)
class Asked:
    """The text fields of an analysis, checked."""

    image_type: str
    clinical_context: str
    flags: Mapping[str, bool]


def create_app(settings: Settings, counter: Counter, claude: Claude, jobs: Jobs) -> FastAPI:
    """The paths as an ASGI application, without the gate."""
    # FastAPI's pages of /docs load from a CDN: not for a site without internet.
    app = FastAPI(title="radloop", version=version("radloop"), docs_url=None, redoc_url=None)
    _add_analyses(app, settings, counter, claude)
    _add_jobs(app, jobs)

    @app.get("/api/v1/health")
    async def health() -> dict[str, Literal["ok"]]:
        """Whether the API process answers; nothing else is told without a token."""
        return {"status": "ok"}

    _add_refusals(app)
    return app


def _add_analyses(app: FastAPI, settings: Settings, counter: Counter, claude: Claude) -> None:
    async def received(
        request: Request, ticket: Ticket, fields: frozenset[str]
    ) -> tuple[Asked, Uploaded]:
        form = await receive_form(
            request.headers,
            request.stream(),
            ticket.input_dir,
            fields=fields,
            reserve_bytes=settings.min_free_bytes,
        )
        asked = read_fields(form.fields)
        uploaded = await run_in_threadpool(inspect, form.images, asked.image_type)
        return asked, await run_in_threadpool(
            put_capture, uploaded, asked.image_type, ticket.input_dir
        )

    async def local(
        request: Request, ticket: Ticket, asked: Asked, uploaded: Uploaded
    ) -> LocalAnswer:
        began = time.monotonic()
        picture = uploaded.series is None
        if picture and asked.image_type not in MODALITY:
            reason = NO_BUNDLE_FOR_PICTURES
            return answers.unavailable(asked.image_type, reason, _ms_since(began))
        outcome = await counter.analyse(ticket, request.is_disconnected)
        answer = await run_in_threadpool(
            answers.from_outcome, outcome, ticket.output_dir, asked.image_type, _ms_since(began)
        )
        return answers.without_evidence(answer) if picture else answer

    @app.post("/api/phase-5/image/analyze-local-only", openapi_extra=_multipart(flags=()))
    async def analyze_local_only(request: Request) -> LocalAnswer:
        """Analyse one series here; nothing leaves the house."""
        async with counter.ticket() as ticket:
            asked, uploaded = await received(request, ticket, _LOCAL_FIELDS)
            return await local(request, ticket, asked, uploaded)

    @app.post("/api/phase-5/image/analyze-hybrid", openapi_extra=_multipart(flags=_HYBRID_FLAGS))
    async def analyze_hybrid(request: Request) -> HybridAnswer:
        """Analyse here and, where the site and the image allow it, by the cloud model too."""
        async with counter.ticket() as ticket:
            asked, uploaded = await received(
                request, ticket, _LOCAL_FIELDS | frozenset(_HYBRID_FLAGS)
            )
            vouched = asked.clinical_context if asked.flags["context_is_deidentified"] else None
            comparison = Comparison(settings, claude, asked.image_type, uploaded)
            await comparison.prepare(
                local_only=asked.flags["use_local_only"],
                pixels_are_deidentified=asked.flags["pixels_are_deidentified"],
            )
            return await comparison.run(local(request, ticket, asked, uploaded), vouched or None)


def _add_jobs(app: FastAPI, jobs: Jobs) -> None:
    @app.post("/api/phase-5/model/fine-tune")
    async def fine_tune(body: FineTune) -> FineTuneStarted:
        """Start a fine-tune on confirmed cases; its state is at /api/v1/jobs/{job_id}."""
        if not body.use_validated_cases:
            raise FieldWrong(
                "use_validated_cases", "must be true: only confirmed cases are ever trained on"
            )
        try:
            job = await jobs.start(body.max_cases, body.epochs, body.bundle)
        except OSError as error:
            raise Defect from error
        return FineTuneStarted(job_id=job.job_id)

    @app.get("/api/v1/jobs/{job_id}")
    async def job_state(job_id: Annotated[str, Field(max_length=64)]) -> Job:
        """State and result of a fine-tune job."""
        job = await run_in_threadpool(jobs.read, job_id)
        if job is None:
            raise UnknownPath(404)
        return job


def read_fields(fields: Mapping[str, str]) -> Asked:
    """Check the text fields of an analysis.

    Raises
    ------
    FieldWrong
        One is missing, too long or not one of its values.
    """
    image_type = fields.get("image_type", "")
    if image_type not in IMAGE_TYPES:
        raise FieldWrong("image_type", f"must be one of {', '.join(IMAGE_TYPES)}")
    context = fields.get("clinical_context", "")
    if len(context) > CONTEXT_LIMIT:
        raise FieldWrong("clinical_context", f"has {len(context)} characters ({CONTEXT_LIMIT} max)")
    flags = {}
    for name in _HYBRID_FLAGS:
        said = fields.get(name, "false").strip().lower()
        if said not in _BOOLEANS:
            raise FieldWrong(name, "must be true or false")
        flags[name] = _BOOLEANS[said]
    return Asked(image_type, context, flags)


def _multipart(flags: tuple[str, ...]) -> dict[str, Any]:
    """The body's description in openapi.json: it is parsed by `upload`, not by FastAPI."""
    properties: dict[str, Any] = {
        IMAGE: {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "description": "DICOM slices of one series, one part each; or one PNG, JPEG or TIFF.",
        },
        "image_type": {"type": "string", "enum": list(IMAGE_TYPES)},
        "clinical_context": {"type": "string", "maxLength": CONTEXT_LIMIT, "default": ""},
        **{flag: {"type": "boolean", "default": False} for flag in flags},
    }
    schema = {"type": "object", "required": [IMAGE, "image_type"], "properties": properties}
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }


def _add_refusals(app: FastAPI) -> None:
    """Everything that goes wrong is answered in one form."""

    @app.exception_handler(ApiRefusal)
    async def refused(_: Request, refusal: ApiRefusal) -> JSONResponse:
        return _json(refusal)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        # The first problem by field and rule; never the value that came.
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return _json(BodyUnusable("the body is not JSON"))
        name = first["loc"][-1]
        known = first["type"] != "extra_forbidden" and name in FineTune.model_fields
        shown = str(name) if known else "a field of the request"
        return _json(FieldWrong(shown, f"is wrong ({first['type']})"))

    @app.exception_handler(HTTPException)
    async def unknown(_: Request, error: HTTPException) -> JSONResponse:
        return _json(UnknownPath(error.status_code))

    @app.exception_handler(Exception)
    async def defect(_: Request, __: Exception) -> JSONResponse:
        return _json(Defect())  # Starlette raises it again: the gate logs its place


def _json(refusal: ApiRefusal) -> JSONResponse:
    headers = {"retry-after": "5"} if refusal.status == 503 else None
    body = {"error": {"code": refusal.code, "message": str(refusal)}}
    return JSONResponse(body, refusal.status, headers)


def _ms_since(began: float) -> float:
    return round(1000 * (time.monotonic() - began), 1)
