"""One image to Claude, one judged answer back, or the named reason why there is none.

What leaves: a PNG, a fixed text, the kind of image, and the caller's context where the
caller vouches for it. `anthropic` is imported at the first call (seconds).
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import time
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.compare.guard import Withheld
from app.settings import Settings
from operators.job import Severity

VENDOR_URL = "https://api.anthropic.com"
TIMEOUT_SECONDS = 90.0
MOST_TOKENS = 2048
_TEXT = 8000
_ITEMS = 32

SYSTEM = (
    "You are the second reader in a comparison with local models. Describe only what the image "
    "shows. Use NOT_ASSESSED and null wherever you can't judge. Your answer is stored for "
    "research and is never a diagnosis."
)


class CloudRegion(BaseModel):
    """One place that the cloud model names."""

    model_config = ConfigDict(extra="forbid", strict=True)

    region: str = Field(max_length=_TEXT)
    finding: str = Field(max_length=_TEXT)
    concern: str | None = Field(max_length=_TEXT)


class CloudFindings(BaseModel):
    """What the cloud model must answer, and nothing else."""

    model_config = ConfigDict(extra="forbid", strict=True)

    findings: str = Field(max_length=_TEXT)
    severity: Severity
    confidence: float | None = Field(ge=0, le=1, allow_inf_nan=False)
    regions_of_interest: list[CloudRegion] = Field(max_length=_ITEMS)
    differential_diagnoses: list[str] = Field(max_length=_ITEMS)
    recommendations: list[str] = Field(max_length=_ITEMS)


class Usage(BaseModel):
    """Tokens of one call, as the API counts them."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class CloudAnswer:
    """What became of one call.

    Attributes
    ----------
    findings : CloudFindings or None
        None where there is no usable answer; then `reason` says why.
    reason : Withheld or None
        Named reason.
    model : str or None
        As the API names itself.
    usage : Usage or None
        Counted even where the answer was of no use: it is paid for.
    milliseconds : float
        From request to answer, ms.
    """

    findings: CloudFindings | None
    reason: Withheld | None
    model: str | None
    usage: Usage | None
    milliseconds: float


class Claude:
    """The cloud model of a site.

    Parameters
    ----------
    settings : Settings
        Account, address, model.
    timeout_s : float
        Longest time for one call, s, whatever trickles in.
    """

    def __init__(self, settings: Settings, timeout_s: float = TIMEOUT_SECONDS) -> None:
        self._settings, self._timeout_s = settings, timeout_s

    def why_off(self) -> Withheld | None:
        """Why this site never calls out; None where it may."""
        if not self._settings.claude_enabled:
            return Withheld("disabled", "claude_enabled is false: nothing leaves this site.")
        key = self._settings.claude_api_key
        if key is None or not key.get_secret_value():
            return Withheld("no_key", "claude_api_key is not set.")
        return None

    async def ask(self, png: bytes, image_type: str, context: str | None) -> CloudAnswer:
        """Send one image.

        Parameters
        ----------
        png : bytes
            De-identified pixels, from `picture`.
        image_type : str
            One of the roadmap's words.
        context : str or None
            Only what a caller called de-identified.

        Returns
        -------
        CloudAnswer
            Never raises for what the other side does.
        """
        sdk = await asyncio.to_thread(importlib.import_module, "anthropic")
        began = time.monotonic()
        message: Any = None
        try:
            async with asyncio.timeout(self._timeout_s):
                message = await self._call(sdk, png, image_type, context)
        except TimeoutError:
            reason = _timed_out(self._timeout_s)
        except Exception as error:  # noqa: BLE001  (an odd answer breaks the SDK in odd ways)
            reason = _named(sdk, error, self._timeout_s)
        else:
            return _judged(message, _ms_since(began))
        return CloudAnswer(None, reason, None, None, _ms_since(began))

    async def _call(self, sdk: ModuleType, png: bytes, image_type: str, context: str | None) -> Any:
        settings = self._settings
        assert settings.claude_api_key is not None
        text = f"Image type: {image_type}." + (f" Context: {context}" if context else "")
        source = {
            "type": "base64",
            "media_type": "image/png",
            "data": base64.b64encode(png).decode(),
        }
        async with sdk.AsyncAnthropic(
            api_key=settings.claude_api_key.get_secret_value(),
            base_url=settings.claude_base_url or VENDOR_URL,
            max_retries=0,  # a Retry-After would be slept literally, an hour if it says so
            timeout=self._timeout_s,
        ) as client:
            return await client.messages.create(
                model=settings.claude_model,
                max_tokens=MOST_TOKENS,
                system=SYSTEM,
                messages=[
                    {
                        "role": "user",
                        "content": [
                            {"type": "image", "source": source},
                            {"type": "text", "text": text},
                        ],
                    }
                ],
                output_config={"format": {"type": "json_schema", "schema": answer_schema()}},
            )


def answer_schema() -> dict[str, Any]:
    """JSON schema of `CloudFindings` without the bounds that structured output does not know."""
    return _plain(CloudFindings.model_json_schema())


def _plain(node: Any) -> Any:
    bounds = ("maxLength", "maxItems", "minimum", "maximum", "title", "description")
    if isinstance(node, dict):
        return {
            key: {name: _plain(entry) for name, entry in value.items()}
            if key in ("properties", "$defs")
            else _plain(value)
            for key, value in node.items()
            if key not in bounds
        }
    return [_plain(entry) for entry in node] if isinstance(node, list) else node


def _judged(message: Any, milliseconds: float) -> CloudAnswer:
    """A message that came, checked: how it ended, then its form."""
    usage = _usage(message)
    model = str(getattr(message, "model", "") or "")[:100] or None
    findings, reason = None, None
    stop = getattr(message, "stop_reason", None)
    if stop == "refusal":
        reason = Withheld("refused", "the cloud model declined to answer.")
    elif stop == "max_tokens":
        reason = Withheld("cut_off", f"the answer was cut off at {MOST_TOKENS} tokens.")
    elif stop != "end_turn":
        reason = Withheld("unexpected_stop", "the answer ended in a way that is not expected.")
    else:
        try:
            blocks = [block for block in message.content if block.type == "text"]
            findings = CloudFindings.model_validate_json("".join(block.text for block in blocks))
        except (ValidationError, AttributeError, TypeError):
            reason = Withheld("wrong_form", "the answer is not of the form that was asked for.")
    return CloudAnswer(findings, reason, model, usage, milliseconds)


def _usage(message: Any) -> Usage | None:
    try:
        return Usage.model_validate(message.usage, from_attributes=True)
    except (ValidationError, AttributeError):
        return None


def _named(sdk: ModuleType, error: Exception, timeout_s: float) -> Withheld:
    """Each of the SDK's exceptions by a name; the other side's sentences are not repeated."""
    if isinstance(error, sdk.APITimeoutError):
        return _timed_out(timeout_s)
    if isinstance(error, sdk.APIConnectionError):
        return Withheld("unreachable", "the cloud API can't be reached.")
    names: tuple[tuple[type[Exception], str, str], ...] = (
        (sdk.RateLimitError, "rate_limited", "too many requests or a spend limit"),
        (sdk.OverloadedError, "overloaded", "the cloud API is overloaded"),
        (sdk.AuthenticationError, "unauthorized", "the key is not accepted"),
        (sdk.PermissionDeniedError, "forbidden", "the key may not do this"),
        (sdk.PaymentRequiredError, "payment_required", "the account must be paid"),
        (sdk.ContentTooLargeError, "too_large", "the image is too large for it"),
        (sdk.RequestTooLargeError, "too_large", "the image is too large for it"),
        (sdk.NotFoundError, "not_found", "no such model or path: see claude_model"),
        (sdk.InternalServerError, "server_error", "the cloud API failed"),
    )
    status = getattr(error, "status_code", None)
    shown = f" (HTTP {status})" if isinstance(status, int) else ""
    for kind, code, text in names:
        if isinstance(error, kind):
            return Withheld(code, f"{text}{shown}.")
    if status is not None:
        return Withheld("rejected", f"the cloud API rejected the request{shown}.")
    return Withheld("unreadable", f"the cloud API's answer can't be read ({type(error).__name__}).")


def _timed_out(seconds: float) -> Withheld:
    return Withheld("timeout", f"no answer within {seconds:g} s.")


def _ms_since(began: float) -> float:
    return round(1000 * (time.monotonic() - began), 1)
