"""The command line's settings: ``ROOST_*`` variables, and ``[tool.roost]`` of pyproject.toml.

An option comes before the environment, the environment before the file, and the file before an
option's default. The settings are the options of ``roost run``, ``dsn`` and ``json``. Only the
command line reads them: the library takes arguments.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import typer
from typer.core import TyperGroup

from roost.cli.output import print_warning
from roost.exceptions import InvalidSettingError

if TYPE_CHECKING:
    from roost.cli.settings_model import CommandSettings

PREFIX = "ROOST_"
OTHER_VARIABLES = ("ROOST_PG_BIN", "ROOST_TEST_DSN", "ROOST_WRITE_DOCS", "ROOST_BENCH_MODULES")
"""Variables that are no setting of the command line."""
NAMES = {"module": "modules", "queue": "queues", "as_json": "json"}
"""Settings that have another name than the parameter of a command."""
COMMON = {"modules", "backend", "json"}
"""Settings of every command that has such an option; the others are for `WORKER_COMMANDS`."""
WORKER_COMMANDS = {"run", "dev"}


@attrs.frozen
class Setting:
    """A value, and what it comes from: the name of a variable, or the path of a file."""

    value: Any
    source: str


@attrs.frozen
class Settings:
    """The settings that are given, by name."""

    given: Mapping[str, Setting] = attrs.field(factory=dict)

    def defaults(self, name: str, command: Any) -> dict[str, Any]:
        """Return the given settings as defaults of a command's parameters, of a group by command.

        Without ``dsn``: `roost.cli.options.find_dsn` looks it up, since the DSN of a worker that
        ``-m`` names comes before it.
        """
        if isinstance(command, TyperGroup):
            return {each: self.defaults(each, sub) for each, sub in command.commands.items()}
        names = {parameter.name: setting_of(parameter.name) for parameter in command.params}
        return {
            parameter: self.given[setting].value
            for parameter, setting in names.items()
            if setting in self.given
            and setting != "dsn"
            and (setting in COMMON or name in WORKER_COMMANDS)
        }


_current: ContextVar[Settings] = ContextVar("roost_settings")


def current() -> Settings:
    """Return the settings of this command line."""
    return _current.get(Settings())


def setting_of(parameter: str) -> str:
    """Return the setting's name of a command's parameter."""
    return NAMES.get(parameter, parameter)


def source_of(context: typer.Context, parameter: str) -> str:
    """Return where the value of a command's parameter comes from.

    It is ``option``, the name of an environment variable, the path of a pyproject.toml, or
    ``default``.
    """
    source = context.get_parameter_source(parameter)
    if source is None or source.name == "DEFAULT":
        return "default"
    if source.name == "DEFAULT_MAP":
        return current().given[setting_of(parameter)].source
    return "option"


class Root(TyperGroup):
    """The command ``roost``: it reads the settings, unless help or the version is asked for."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options before the command, and read the settings."""
        asks_for_help = "--help" in args
        rest = super().parse_args(ctx, args)
        if not (asks_for_help or ctx.resilient_parsing):
            token = _current.set(read_settings())
            ctx.call_on_close(lambda: _current.reset(token))
        return rest

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the invoked command, and make the settings the defaults of its parameters."""
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None:
            ctx.default_map = {name: current().defaults(name, command)}
        return name, command, rest


def read_settings(
    environment: Mapping[str, str] = os.environ, folder: Path | None = None
) -> Settings:
    """Read the environment, and the nearest pyproject.toml upwards that has ``[tool.roost]``.

    A variable that looks like a mistyped setting is a warning on stderr: other programs may use
    the prefix, such as Kubernetes for a service called roost.

    :param folder: where to begin; ``None``: the current folder.
    :raises InvalidSettingError: a key of the file is unknown, or a value is wrong; the message
        names its source.
    """
    path, table = find_table(folder or Path.cwd())
    names = {name.upper() for name, value in environment.items() if value}
    if not table and not any(name.startswith(PREFIX) for name in names - {"ROOST_DSN"}):
        dsn = environment.get("ROOST_DSN")  # the usual case, without the import below
        return Settings({"dsn": Setting(dsn, "ROOST_DSN")} if dsn else {})

    from roost.cli.settings_model import settings_model

    model = settings_model()
    known = {name: PREFIX + name.upper() for name in model.model_fields}
    for name in sorted(names - {*known.values(), *OTHER_VARIABLES}):
        # Compared without the prefix, which makes short names alike: ROOST_PORT and ROOST_OTEL.
        meant = _closest(name.removeprefix(PREFIX).lower(), known)
        if name.startswith(PREFIX) and meant is not None:
            print_warning(f"the variable {name} is no setting; did you mean {known[meant]}?")
    return _checked(model, environment, path, table)


def _checked(
    model: type[CommandSettings],
    environment: Mapping[str, str],
    path: Path,
    table: Mapping[str, Any],
) -> Settings:
    from roost.cli.settings_model import validate

    in_file = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in model.model_fields:
            meant = _closest(name, model.model_fields)
            hint = f"did you mean {meant}?" if meant else "see the reference page of settings"
            raise InvalidSettingError(f"{path}: [tool.roost] has no setting {key}; {hint}")
        in_file[name] = value
    in_environment = model.from_environment(environment)
    sources = dict.fromkeys(in_file, f"{path}")
    sources |= {name: PREFIX + name.upper() for name in in_environment}
    values = validate(model, {**in_file, **in_environment}, sources)
    return Settings({name: Setting(value, sources[name]) for name, value in values.items()})


def find_table(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the nearest pyproject.toml upwards that has ``[tool.roost]``, and that table.

    :raises InvalidSettingError: a file that mentions roost is no TOML.
    """
    for parent in (folder, *folder.parents):
        path = parent / "pyproject.toml"
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if "roost" not in text:
            continue
        try:
            found = tomllib.loads(text).get("tool", {}).get("roost")
        except tomllib.TOMLDecodeError as error:
            raise InvalidSettingError(f"{path} is not TOML: {error}") from error
        if isinstance(found, dict):
            return path, found
    return folder, {}


def _closest(name: str, names: Iterable[str]) -> str | None:
    return next(iter(get_close_matches(name, names, n=1, cutoff=0.8)), None)
