"""The DSN comes from an option or the environment; a worker's settings are options of `run`."""

from __future__ import annotations

import attrs
import pytest
import typer
from typer.main import get_command

from roost import InvalidSettingError, WorkerSettings
from roost.cli.app import app
from roost.cli.options import PYTHON_ONLY, parse_queues, resolve_dsn, seconds_by_state


def test_the_option_comes_before_roost_dsn_and_that_before_database_url() -> None:
    both = {"ROOST_DSN": "second", "DATABASE_URL": "third"}
    assert resolve_dsn("first", both) == "first"
    assert resolve_dsn(None, both) == "second"
    assert resolve_dsn(None, {"DATABASE_URL": "third"}) == "third"


def test_an_empty_value_is_none() -> None:
    assert resolve_dsn("", {"ROOST_DSN": "", "DATABASE_URL": "third"}) == "third"
    with pytest.raises(InvalidSettingError, match="--dsn"):
        resolve_dsn(None, {"ROOST_DSN": ""})


def test_the_options_of_run_have_the_defaults_of_a_worker() -> None:
    run = get_command(app).commands["run"]  # type: ignore[attr-defined]  # it is a group
    options = {parameter.name: parameter for parameter in run.params}
    for field in attrs.fields(WorkerSettings):
        if field.name not in {*PYTHON_ONLY, "queues"}:
            assert options[field.name].default == field.default, field.name
            assert options[field.name].help, field.name
    assert options["queue"].default == ["default"]


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (None, None),
        ([], None),
        (["3600"], 3600),
        (["completed=0", "discarded=604800.5"], {"completed": 0, "discarded": 604800.5}),
    ],
)
def test_seconds_are_for_all_states_or_by_state(given: list[str] | None, seconds: object) -> None:
    assert seconds_by_state(given) == seconds


@pytest.mark.parametrize(
    "given",
    [
        *(["1h"], ["completed=x"], ["completed"], ["=1"]),
        *(["1", "2"], ["1", "completed=2"], ["a=1"] * 2),
    ],
)
def test_other_seconds_are_refused(given: list[str]) -> None:
    with pytest.raises(typer.BadParameter):
        seconds_by_state(given)


@pytest.mark.parametrize(
    ("given", "queues"),
    [
        (["default"], ["default"]),
        (["web", "bulk"], ["web", "bulk"]),
        (["web=8", "bulk=2"], {"web": 8, "bulk": 2}),
        (["a=b=3"], {"a=b": 3}),
    ],
)
def test_queues_may_have_slots(given: list[str], queues: object) -> None:
    assert parse_queues(given) == queues


@pytest.mark.parametrize("given", [["web=8", "bulk"], ["web=8", "web=2"]])
def test_queues_with_and_without_slots_are_refused_together(given: list[str]) -> None:
    with pytest.raises(InvalidSettingError, match="queue"):
        parse_queues(given)


@pytest.mark.parametrize("given", ["web=x", "web=", "web=-1", "web=1.5", "web=8=", "=x"])
def test_slots_that_are_no_number_are_refused(given: str) -> None:
    with pytest.raises(InvalidSettingError, match="must be a whole number"):
        parse_queues([given])
