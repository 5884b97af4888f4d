"""The option ``--http``: listen before the worker starts, so that a wrong port ends the command."""

from __future__ import annotations

import os
import socket

import attrs

from roost.cli.output import fail
from roost.exceptions import InvalidSettingError
from roost.web import bind, parse_address
from roost.web.address import MAX_PORT
from roost.web.extra import require_http


def check_ports(text: str, *, workers: int) -> None:
    """Check the option before processes are started, each of which listens on its own port.

    A process that found its port wrong or in use would be started again, beside others that run.

    :raises InvalidSettingError: the text is no address, there are not enough ports above it, or the
        extra ``http`` is not installed.
    :raises typer.Exit: one of them can't be listened on; a message says why.
    """
    address = parse_address(text)
    if address.port and address.port + workers - 1 > MAX_PORT:
        raise InvalidSettingError(
            f"--http {address} with --workers {workers} needs {workers} ports, and the highest is "
            f"{MAX_PORT}: choose a port of at most {MAX_PORT - workers + 1}"
        )
    for process in range(1, workers + 1 if address.port else 2):
        listen(text, process=process).close()


def listen(text: str, *, process: int = 1) -> socket.socket:
    """Return a socket that listens on the option's ``HOST:PORT``.

    :param process: which process of ``--workers`` this is. The second one listens on ``PORT+1``,
        and so on, because a probe asks one worker.
    :raises InvalidSettingError: the text is no address, or the extra ``http`` is not installed.
    :raises typer.Exit: it can't listen there; a message says why.
    """
    require_http()
    address = parse_address(text)
    if address.port and process > 1:
        address = parse_address(str(attrs.evolve(address, port=address.port + process - 1)))
    try:
        return bind(address)
    except OSError as error:
        # The text of the error has the address too, where the system refused it.
        number = error.errno or 0  # below 0: a name that can't be resolved
        reason = os.strerror(number) if number > 0 else error.strerror or str(error)
        fail(f"can't serve HTTP on {address}: {reason}")
