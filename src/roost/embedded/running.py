"""Find a server that another process of this user runs. Creates, starts and changes nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from roost.embedded.errors import EmbeddedPostgresError
from roost.embedded.os_user import check_owner, server_user
from roost.embedded.paths import SOCKET_NAME, existing_paths
from roost.embedded.ready import is_ready
from roost.embedded.removal import MARKER
from roost.embedded.server import socket_dsn

READY_TIMEOUT = 2.0


def find_running(data_dir: Path) -> str | None:
    """Return the DSN of the server of ``data_dir``, or ``None`` if no such server runs.

    A folder, cluster or socket of another user is as none: that user could read what this one
    stores. So is a cluster that `server` did not create.
    """
    if sys.platform == "win32" or not data_dir.is_dir():
        return None
    try:
        os_user = server_user()
        paths = existing_paths(data_dir, os_user)
        check_owner(paths.home, os.geteuid())
        check_owner(paths.cluster, os_user.uid)
        if paths.socket_dir.parent != paths.home:
            check_owner(paths.socket_dir.parent, os.geteuid())
        check_owner(paths.socket_dir, os_user.uid)
    except (OSError, EmbeddedPostgresError):
        return None
    if not (paths.cluster / MARKER).is_file():
        return None
    if not is_ready(paths.socket_dir / SOCKET_NAME, timeout=READY_TIMEOUT):
        return None
    return socket_dsn(paths.socket_dir, "postgres")
