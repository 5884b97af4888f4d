"""Let a Ctrl-C end the command without a traceback while its modules are being imported.

Nothing of Roost may be imported here: this is run before all of it.
"""

import os
import signal
import sys
import threading
from pathlib import Path

INTERRUPTED = 130
"""The exit code of a command that a Ctrl-C ended: 128 + SIGINT."""


def is_command() -> bool:
    """Say whether this process is ``python -m roost`` or the script ``roost`` beside its Python."""
    if sys.argv[:1] == ["-m"]:  # while the package of a `python -m` is looked for
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


def _exit(*_: object) -> None:
    # Not SystemExit, which some of what runs during an import would report and swallow.
    os._exit(INTERRUPTED)


if is_command():  # by the first import of the package, before that of all it needs
    exit_on_sigint()
