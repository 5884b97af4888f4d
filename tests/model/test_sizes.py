"""Args that are too large are refused; results that are too large are replaced by a note."""

from __future__ import annotations

import json
from typing import Any

import pytest

from roost import HandlerRegistry, InvalidJobError, InvalidSettingError, JobInsert
from roost._model.encoding import encode_batch, encode_jobs
from roost._model.settings import WorkerSettings
from roost._model.verdict import result_as_json

SMALL = HandlerRegistry(max_args_bytes=1_000)


@pytest.mark.parametrize(
    "fields",
    [
        {"args": {"text": "x" * 990}},
        {"args": {"text": "é" * 495}},
        {"args": {"text": "x" * 500}, "metadata": {"more": "x" * 500}},
        {"metadata": {"text": "x" * 1_000}},
    ],
)
@pytest.mark.parametrize("encode", [encode_jobs, encode_batch])
def test_args_and_metadata_that_are_too_large_are_refused(encode: Any, fields: Any) -> None:
    with pytest.raises(InvalidJobError, match=r"metadata of task 'big' are 1,\d\d\d bytes"):
        encode([JobInsert("big", **fields)], SMALL)


def test_the_error_names_the_position_in_a_batch() -> None:
    jobs = [JobInsert("big", {"n": n, "text": "x" * (2_000 if n == 2 else 10)}) for n in range(4)]
    with pytest.raises(InvalidJobError, match=r"2.*max_args_bytes of the registry \(1,000\)"):
        encode_batch(jobs, SMALL)


def test_a_batch_of_small_jobs_may_exceed_the_limit() -> None:
    jobs = [JobInsert("small", {"text": "x" * 900}) for _ in range(100)]
    assert len(encode_batch(jobs, SMALL).text) > 90_000
    assert len(encode_jobs(jobs, SMALL)) > 90_000


def test_the_default_limit_is_16_mib() -> None:
    encode_jobs([JobInsert("big", {"text": "x" * (16_000_000)})])
    with pytest.raises(InvalidJobError, match="max_args_bytes"):
        encode_jobs([JobInsert("big", {"text": "x" * (17_000_000)})])


@pytest.mark.parametrize(
    "value", ["x" * 999, "é" * 500, ["x" * 600, "x" * 600], [1] * 1_001, {"text": "x" * 1_000}]
)
def test_a_note_replaces_a_result_that_is_too_large(value: object) -> None:
    note = json.loads(result_as_json(value, maximum=1_000))["roost.unserializable"]
    assert note.startswith(f"{type(value).__name__}: its JSON text of at least ")
    assert note.endswith("bytes exceeds max_result_bytes (1,000)")


def test_a_result_as_long_as_the_limit_is_stored() -> None:
    assert result_as_json("x" * 998, maximum=1_000) == json.dumps("x" * 998)


@pytest.mark.parametrize("value", [999, 0, -1, 1e6, 201 << 20, None])
def test_limits_of_results_out_of_range_are_refused(value: Any) -> None:
    with pytest.raises(InvalidSettingError, match="max_result_bytes"):
        WorkerSettings(max_result_bytes=value)
