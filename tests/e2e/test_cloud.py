"""The cloud call against a server that answers well, badly, slowly or not at all."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.compare.claude import Claude, CloudAnswer
from app.settings import Settings
from tests.e2e.cloud import GOOD, Cloud, cloud_server, message


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with cloud_server() as server:
        yield server


def settings(url: str, **more: Any) -> Settings:
    own = {"claude_enabled": True, "claude_api_key": "sk-test", "claude_base_url": url}
    return Settings(**{**own, **more})


def picture() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(out, "PNG")
    return out.getvalue()


def ask(cloud: Cloud, *, timeout_s: float = 20.0, context: str | None = None) -> CloudAnswer:
    claude = Claude(settings(cloud.url), timeout_s=timeout_s)
    return asyncio.run(claude.ask(picture(), "ct", context))


def test_a_good_answer_is_taken_as_it_is(cloud: Cloud) -> None:
    answer = ask(cloud)

    assert answer.reason is None
    assert answer.findings is not None and answer.findings.model_dump() == GOOD
    assert answer.model == "claude-stand-in"
    assert answer.usage is not None and answer.usage.input_tokens == 1200
    assert answer.milliseconds > 0
    (request,) = cloud.requests()
    assert cloud.pictures() == [picture()]
    assert request["output_config"]["format"]["type"] == "json_schema"
    assert request["messages"][0]["content"][1]["text"] == "Image type: ct."


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "rejected"),
        (401, "unauthorized"),
        (402, "payment_required"),
        (403, "forbidden"),
        (404, "not_found"),
        (413, "too_large"),
        (429, "rate_limited"),
        (500, "server_error"),
        (503, "server_error"),
        (529, "overloaded"),
    ],
)
def test_each_status_has_a_name_and_is_not_tried_again(
    cloud: Cloud, status: int, code: str
) -> None:
    cloud.status = status
    cloud.headers["retry-after"] = "3600"
    cloud.body = b'{"type":"error","error":{"type":"x","message":"Doe^John is not allowed"}}'

    began = time.monotonic()
    answer = ask(cloud)

    assert answer.findings is None and answer.reason is not None
    assert answer.reason.code == code
    assert str(status) in answer.reason.text and "Doe" not in answer.reason.text
    assert len(cloud.received) == 1
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("text", "stop_reason", "code"),
    [
        (json.dumps(GOOD), "refusal", "refused"),
        ('{"findings": "cut', "max_tokens", "cut_off"),
        (json.dumps(GOOD), "tool_use", "unexpected_stop"),
        ("I see two balls.", "end_turn", "wrong_form"),
        ("", "end_turn", "wrong_form"),
        ("[]", "end_turn", "wrong_form"),
        (json.dumps({**GOOD, "confidence": 1.5}), "end_turn", "wrong_form"),
        (json.dumps({**GOOD, "confidence": float("nan")}), "end_turn", "wrong_form"),
        (json.dumps({**GOOD, "severity": "FATAL"}), "end_turn", "wrong_form"),
        (json.dumps({**GOOD, "findings": "x" * 9000}), "end_turn", "wrong_form"),
        (json.dumps({**GOOD, "more": 1}), "end_turn", "wrong_form"),
        (json.dumps({**GOOD, "differential_diagnoses": None}), "end_turn", "wrong_form"),
    ],
)
def test_an_answer_of_no_use_is_named_and_still_paid_for(
    cloud: Cloud, text: str, stop_reason: str, code: str
) -> None:
    cloud.body = json.dumps(message(text, stop_reason)).encode()

    answer = ask(cloud)

    assert answer.findings is None and answer.reason is not None
    assert answer.reason.code == code
    assert answer.usage is not None and answer.usage.output_tokens == 300


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"id": "msg_1", "content": [', "application/json"),
        (b"<html>proxy login</html>", "text/html"),
        (b"", "application/json"),
        (b"null", "application/json"),
        (b'{"stop_reason": "end_turn", "content": null}', "application/json"),
        (b'{"stop_reason": "end_turn", "content": [{"type": "text"}]}', "application/json"),
    ],
)
def test_a_body_that_is_no_message_is_named(cloud: Cloud, body: bytes, kind: str) -> None:
    cloud.body, cloud.headers = body, {"content-type": kind}

    answer = ask(cloud)

    assert answer.findings is None and answer.reason is not None
    assert answer.reason.code in ("unreadable", "unexpected_stop", "wrong_form")


def test_silence_and_trickling_end_at_the_limit(cloud: Cloud) -> None:
    ask(cloud)  # imports the SDK
    for cloud.wait_s, cloud.drip_s in ((5.0, 0.0), (0.0, 0.2)):
        began = time.monotonic()
        answer = ask(cloud, timeout_s=1.0)
        assert answer.reason is not None and answer.reason.code == "timeout"
        assert time.monotonic() - began < 4


def test_a_closed_door_and_a_hang_up_are_unreachable(cloud: Cloud) -> None:
    cloud.hang_up = True
    answer = ask(cloud)
    assert answer.reason is not None and answer.reason.code == "unreachable"

    claude = Claude(settings("http://127.0.0.1:9"))
    nobody = asyncio.run(claude.ask(picture(), "ct", None))
    assert nobody.reason is not None and nobody.reason.code == "unreachable"


def test_context_leaves_only_where_it_is_given(cloud: Cloud) -> None:
    ask(cloud, context="cough for two weeks")
    (request,) = cloud.requests()
    assert request["messages"][0]["content"][1]["text"].endswith("Context: cough for two weeks")


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"claude_enabled": False}, "disabled"),
        ({"claude_api_key": None}, "no_key"),
        ({"claude_api_key": ""}, "no_key"),
        ({}, None),
    ],
)
def test_the_switch(more: dict[str, Any], code: str | None) -> None:
    why = Claude(settings("http://127.0.0.1:9", **more)).why_off()
    assert (why.code if why else None) == code
