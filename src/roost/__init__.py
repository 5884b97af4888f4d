"""Roost: a background job queue for asyncio and trio whose only infrastructure is Postgres.

This package has the public names. Names with a leading underscore may change at any time.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from roost import _interrupt  # first, to handle a Ctrl-C during the other imports

if TYPE_CHECKING:
    from roost._public import *  # noqa: F403  (its `__all__` says which)
    from roost._public import __all__ as __all__
    from roost._public import __version__ as __version__
else:
    # The first use of a name imports them all. The commands' help, completion and version use none.

    def __getattr__(name: str) -> object:
        public = import_module("roost._public")
        names = [*public.__all__, "__all__", "__version__"]
        globals().update({each: getattr(public, each) for each in names})
        if name not in globals():
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return globals()[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})


_interrupt.restore_sigint()
