"""Settings come from an option, the environment, pyproject.toml or a default, in this order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import pytest
import typer
from tests.support.job_table import JobTable
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from roost import InvalidSettingError, WorkerSettings
from roost.cli.app import app
from roost.cli.options import PYTHON_ONLY, find_dsn
from roost.cli.run import DEFAULT_QUEUES
from roost.cli.settings import (
    COMMON,
    WORKER_COMMANDS,
    Root,
    read_settings,
    setting_of,
    source_of,
)
from roost.cli.settings_model import settings_model

if TYPE_CHECKING:
    from tests.cli.conftest import RunsCommand, StartsRoost


def project(folder: Path, text: str, *, header: str = "[tool.roost]\n") -> Path:
    path = folder / "pyproject.toml"
    path.write_text(header + text)
    return path


def values(folder: Path, **environment: str) -> dict[str, Any]:
    given = read_settings(environment, folder).given
    return {name: setting.value for name, setting in given.items()}


def test_every_setting_of_a_worker_is_a_setting_of_the_command_line() -> None:
    of_worker = {field.name for field in attrs.fields(WorkerSettings)} - PYTHON_ONLY
    others = {
        "dsn",
        "modules",
        "backend",
        "uvloop",
        "driver",
        "log_level",
        "log_json",
        "json",
        "otel",
    }
    assert of_worker | others <= set(settings_model().model_fields)


def test_a_setting_that_is_on_can_be_switched_off_by_an_option() -> None:
    settings = settings_model().model_fields
    flags = {
        f"{name} {parameter.opts[0]}": parameter
        for name, command in commands(get_command(app))
        for parameter in command.params
        if getattr(parameter, "is_flag", False)
        and (setting := setting_of(parameter.name)) in settings
        and (setting in COMMON or name in WORKER_COMMANDS)
    }
    assert {"run --reload", "dev --otel", "top --json"} <= flags.keys()
    assert [option for option, flag in flags.items() if not flag.secondary_opts] == []


def commands(group: Any) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command)
        else:
            yield name, command


def test_an_option_switches_off_what_the_file_switches_on(
    tmp_path: Path, run_command: RunsCommand, dsn: str
) -> None:
    project(tmp_path, "json = true\n")
    assert run_command("queue", "list", "--dsn", dsn).json == []
    assert run_command("queue", "list", "--no-json", "--dsn", dsn).out.startswith("There is no")


def test_the_environment_comes_before_the_nearest_file_that_has_settings(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    path = project(tmp_path, "concurrency = 3\npoll-interval = 2\ndsn = 'postgresql://file'\n")
    project(folder, "strict = true\n", header="[tool.mypy]\n")
    found = read_settings({"ROOST_CONCURRENCY": "5", "ROOST_BACKEND": ""}, folder).given
    assert {name: (setting.value, setting.source) for name, setting in found.items()} == {
        "concurrency": (5, "ROOST_CONCURRENCY"),
        "poll_interval": (2.0, str(path)),
        "dsn": ("postgresql://file", str(path)),
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("queues = ['web', 'bulk']", ["web", "bulk"]),
        ("queues = {web = 8, bulk = 2}", ["web=8", "bulk=2"]),
        ("queues = 'web=8, bulk=2'", ["web=8", "bulk=2"]),
        ("archive_after_seconds = 60", ["60"]),
        ("archive_after_seconds = {completed = 60}", ["completed=60"]),
        ("backend = 'trio'", "trio"),
        ("log_json = false", False),
        ("run_cron = 'no'", False),
        ("prefetch = 0", 0),
    ],
)
def test_a_value_has_the_form_of_its_option(text: str, value: object, tmp_path: Path) -> None:
    project(tmp_path, text)
    assert list(values(tmp_path).values()) == [value]


def test_lists_in_the_environment_are_separated_by_commas(tmp_path: Path) -> None:
    found = values(tmp_path, ROOST_MODULES="shop, mail", ROOST_QUEUES="web=8,bulk=2")
    assert found == {"modules": ["shop", "mail"], "queues": ["web=8", "bulk=2"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("concurency = 3", r"has no setting concurency; did you mean concurrency\?"),
        ("color = 3", "has no setting color; see the reference page"),
        ("hooks = 3", "has no setting hooks"),
        ("concurrency = 'x'", "concurrency: input should be a valid integer.* not 'x'"),
        ("concurrency = true", "concurrency: must not be true or false"),
        ("concurrency = 0", "concurrency must be a whole number ≥ 1"),
        ("backend = 'curio'", "backend: input should be 'asyncio' or 'trio'"),
        ("queues = ['web=8', 'bulk']", "give slots to every queue or to none"),
        ("queues = []", "queues must have at least one name"),
        ("archive_after_seconds = 'done=60'", "done"),
        ("archive_after_seconds = 'x'", "not seconds: 'x'"),
        ("heartbeat_interval = -1", "heartbeat_interval must be finite seconds"),
        ("concurrency =", "is not TOML"),
    ],
)
def test_a_wrong_setting_of_a_file_names_the_file(text: str, message: str, tmp_path: Path) -> None:
    path = project(tmp_path, text)
    with pytest.raises(InvalidSettingError, match=message) as error:
        values(tmp_path)
    assert str(error.value).startswith(str(path))


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettingError, match=r"^ROOST_PREFETCH: .* not 'many'"):
        values(tmp_path, ROOST_PREFETCH="many")


def test_a_dsn_is_never_shown(tmp_path: Path) -> None:
    project(tmp_path, "dsn = ['postgresql://me:secret@host/app']")
    with pytest.raises(InvalidSettingError, match="dsn: input should be") as error:
        values(tmp_path)
    assert "secret" not in str(error.value)


def test_a_broken_file_that_does_not_mention_roost_is_no_concern(tmp_path: Path) -> None:
    project(tmp_path, "=", header="")
    assert values(tmp_path) == {}


def test_only_likely_mistakes_among_the_variables_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variables = {
        "ROOST_CONCURENCY": "5",
        "ROOST_SERVICE_HOST": "10.0.0.1",
        "ROOST_PORT": "tcp://10.0.0.1:80",
        "ROOST_PG_BIN": "/usr/bin",
        "ROOST_TEST_DSN": "postgresql:///test",
    }
    assert values(tmp_path, **variables) == {}
    assert capsys.readouterr().err == (
        "roost: warning: the variable ROOST_CONCURENCY is no setting; "
        "did you mean ROOST_CONCURRENCY?\n"
    )


def test_a_dsn_has_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer(cls=Root)
    found = []

    @app.command()
    def one(dsn: str | None = None) -> None:
        found.append(find_dsn(dsn))

    @app.command()
    def two() -> None: ...

    monkeypatch.chdir(tmp_path)
    path = project(tmp_path, "dsn = 'postgresql://file'")
    unset: dict[str, str | None] = {"ROOST_DSN": None, "DATABASE_URL": None}
    environments: list[dict[str, str | None]] = [
        unset,
        {**unset, "DATABASE_URL": "a"},
        {"ROOST_DSN": "b", "DATABASE_URL": "a"},
    ]
    for environment in environments:
        assert CliRunner().invoke(app, ["one"], env=environment).exit_code == 0
    assert CliRunner().invoke(app, ["one", "--dsn", "c"], env=environments[2]).exit_code == 0
    assert [(dsn.dsn, dsn.source) for dsn in found] == [
        ("postgresql://file", str(path)),
        ("a", "DATABASE_URL"),
        ("b", "ROOST_DSN"),
        ("c", "option"),
    ]


def test_settings_are_the_defaults_of_the_commands_that_they_are_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, jobs = typer.Typer(cls=Root), typer.Typer()
    app.add_typer(jobs, name="jobs")
    found: dict[str, object] = {}

    @app.command("run")
    def run(
        context: typer.Context,
        module: Annotated[list[str], typer.Option()],
        queue: Annotated[list[str], typer.Option()] = DEFAULT_QUEUES,
        concurrency: int = 4,
        backend: str = "asyncio",
    ) -> None:
        names = ("module", "queue", "concurrency", "backend")
        sources = {name: source_of(context, name) for name in names}
        found.update(values=(module, queue, concurrency, backend), sources=list(sources.values()))

    @jobs.command("list")
    def list_jobs(
        queue: Annotated[list[str] | None, typer.Option()] = None, as_json: bool = False
    ) -> None:
        found.update(queue=queue, as_json=as_json)

    monkeypatch.chdir(tmp_path)
    path = project(tmp_path, "modules = ['shop']\nqueues = {web = 8}\njson = true\n")
    done = CliRunner().invoke(
        app, ["run", "--concurrency", "2"], env={"ROOST_CONCURRENCY": "9"}, catch_exceptions=False
    )
    assert done.exit_code == 0
    assert found["values"] == (["shop"], ["web=8"], 2, "asyncio")
    assert found["sources"] == [str(path), str(path), "option", "default"]
    assert CliRunner().invoke(app, ["jobs", "list"]).exit_code == 0
    assert (found["queue"], found["as_json"]) == (None, True)


def test_help_does_not_read_the_settings(tmp_path: Path, roost_command: StartsRoost) -> None:
    project(tmp_path, "concurency = 3")
    for arguments in (["--help"], ["run", "--help"], ["--version"]):
        assert roost_command(*arguments).ends() == 0
    assert roost_command("cron", "list").ends() == 2


def test_a_worker_runs_with_the_settings(
    dsn: str, table: JobTable, tasks: Path, roost_command: StartsRoost
) -> None:
    text = "modules = ['tasks']\nqueues = {mail = 2, post = 1}\nconcurrency = 2\n"
    project(tasks, text + f"dsn = {json.dumps(dsn)}\n")
    run = roost_command("run", "--backend", "trio")
    run.wait_for("worker is ready")
    [row] = table.rows("select queues, concurrency, event_loop from roost.workers")
    assert row == (["mail", "post"], 2, "trio")
    run.signal()
    assert run.ends() == 0


def test_a_worker_of_the_code_keeps_its_dsn_and_takes_the_other_settings(
    dsn: str, table: JobTable, tmp_path: Path, roost_command: StartsRoost
) -> None:
    (tmp_path / "of_shop.py").write_text(
        "import roost\n"
        "registry = roost.HandlerRegistry()\n"
        "@roost.job('send', registry=registry)\n"
        "async def send(): ...\n"
        f"worker = roost.Worker({dsn!r}, registry=registry, concurrency=9, prefetch=1)\n"
    )
    nowhere = "postgresql://127.0.0.1:1/nowhere"
    project(tmp_path, f"modules = ['of_shop:worker']\nconcurrency = 2\ndsn = '{nowhere}'\n")
    run = roost_command("run", ROOST_DSN=nowhere, ROOST_PREFETCH="3")
    run.wait_for("worker is ready")
    assert table.value("select concurrency from roost.workers") == 2
    run.signal()
    assert run.ends() == 0
