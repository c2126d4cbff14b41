"""The record of comparisons: lines that are only added, and figures that are null when unknown."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from app.compare.claude import Usage
from app.compare.record import FILE, append, confidence_delta, cost_usd, severity_match
from app.settings import Settings

USAGE = Usage(input_tokens=1_000_000, output_tokens=500_000)


@pytest.mark.parametrize(
    ("local", "cloud", "expected"),
    [
        ("HIGH", "HIGH", True),
        ("HIGH", "LOW", False),
        ("NOT_ASSESSED", "LOW", None),
        ("NOT_ASSESSED", "NOT_ASSESSED", None),
        ("LOW", None, None),
    ],
)
def test_severity_match(local, cloud, expected) -> None:
    assert severity_match(local, cloud) is expected


def test_confidence_delta() -> None:
    assert confidence_delta(0.75, 0.5) == 0.25
    assert confidence_delta(None, 0.5) is None and confidence_delta(0.5, None) is None


def test_cost_needs_tokens_and_both_prices() -> None:
    priced = {"claude_usd_per_mtok_in": 3.0, "claude_usd_per_mtok_out": 15.0}
    assert cost_usd(USAGE, Settings(**priced)) == pytest.approx(3.0 + 7.5)
    assert cost_usd(None, Settings(**priced)) is None
    assert cost_usd(USAGE, Settings()) is None
    assert cost_usd(USAGE, Settings(claude_usd_per_mtok_in=3.0)) is None


def test_lines_of_several_writers_stay_whole(tmp_path: Path) -> None:
    def write(writer: int) -> None:
        for number in range(10):
            append(tmp_path / "state", {"writer": writer, "number": number, "long": "x" * 9000})

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [json.loads(line) for line in (tmp_path / "state" / FILE).read_text().splitlines()]
    assert sorted((line["writer"], line["number"]) for line in lines) == [
        (writer, number) for writer in range(4) for number in range(10)
    ]


def test_a_torn_line_does_not_swallow_the_next(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"first": 1}\n{"torn":')
    append(tmp_path, {"next": 2})
    assert json.loads((tmp_path / FILE).read_text().splitlines()[-1]) == {"next": 2}
