"""End the command without a traceback on a Ctrl-C while its modules are imported.

This module must not import any other of Roost, since it runs before them.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

INTERRUPTED = 130
"""Exit code of a command ended by Ctrl-C: 128 + SIGINT."""


def is_command() -> bool:
    """Return whether this is ``python -m roost``, or the script ``roost`` of this Python."""
    if sys.argv[:1] == ["-m"]:  # while `python -m` imports the package
        options = sys.orig_argv
        return "-m" in options and options[options.index("-m") + 1 :][:1] == ["roost"]
    script = Path(sys.argv[0] if sys.argv else "")
    if script == Path(__file__).with_name("__main__.py"):
        return True
    return script.stem == "roost" and script.parent == Path(sys.executable).parent


def exit_on_sigint() -> None:
    """Exit with `INTERRUPTED` on SIGINT, unless another handler is set."""
    if threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):
        signal.signal(signal.SIGINT, _exit)


def restore_sigint() -> None:
    """Undo `exit_on_sigint`."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def exiting_on_sigint() -> Iterator[None]:
    """During imports of the command, exit as `exit_on_sigint` does."""
    if is_command():
        exit_on_sigint()
    try:
        yield
    finally:
        restore_sigint()


def _exit(*_: object) -> None:
    # Not SystemExit: some code that runs during imports would report and swallow it.
    os._exit(INTERRUPTED)


if is_command():  # on the first import of the package, before its dependencies
    exit_on_sigint()
