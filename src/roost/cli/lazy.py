"""A group of commands that imports a command's module when the command is looked up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, ClassVar, Final, cast

import attrs
import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from roost import _interrupt

MARKUP: Final = "markdown"
"""It joins the lines of a docstring's paragraph."""


@attrs.frozen
class LazyCommand:
    """Where a command is, and what the list of commands says about it.

    :param path: as ``module:attribute``, within `roost.cli`. The attribute is a function, or a
        `typer.Typer` that has several commands. The help ends with the module's ``EPILOG``.
    :param help: the first paragraph of the command's help.
    """

    path: str
    help: str

    def load(self, name: str) -> Any:
        """Import the module and return the command. A Ctrl-C during the import exits."""
        name_of_module, _, attribute = self.path.partition(":")
        with _interrupt.exiting_on_sigint():
            module = import_module(f"roost.cli.{name_of_module}")
        found = getattr(module, attribute)
        app = typer.Typer(rich_markup_mode=MARKUP)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name, epilog=getattr(module, "EPILOG", None))(found)
        return get_group(app).commands[name]


class LoadingCommands(Mapping[str, Any]):
    """The commands by name. Each is loaded when it is read; the names alone load nothing."""

    def __init__(self, table: Mapping[str, LazyCommand]) -> None:
        self._table = table
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        """Return a command."""
        if name not in self._loaded:
            self._loaded[name] = self._table[name].load(name)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._table)

    def __len__(self) -> int:
        """Return the number of commands."""
        return len(self._table)


class LazyGroup(TyperGroup):
    """A group whose commands are those of `table`. Its own help and completion load none."""

    table: ClassVar[Mapping[str, LazyCommand]]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = cast("Any", LoadingCommands(self.table))

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  (typer's signature)
        """Return the names in the order of the table."""
        return list(self.table)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help of the group."""
        with self._only_described():
            super().format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return the names and options that begin with a text."""
        with self._only_described():
            return super().shell_complete(ctx, incomplete)

    @contextmanager
    def _only_described(self) -> Iterator[None]:
        """Have commands that can't be run, only described, instead of the real ones."""
        commands = self.commands
        self.commands = {
            name: TyperCommand(name, help=command.help) for name, command in self.table.items()
        }
        try:
            yield
        finally:
            self.commands = commands
