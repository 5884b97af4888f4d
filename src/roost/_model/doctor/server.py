"""Judge the connection, the server and its settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from roost._model.doctor.facts import (
    ConnectionFacts,
    ConnectionLimits,
    ServerFacts,
)
from roost._model.doctor.finding import Finding, FindingLevel
from roost._model.durations import duration

SLOW_ROUND_TRIP = 0.02
"""Seconds; a worker's claim, settle and heartbeat each cost one."""
SLOW_NOTIFY = 0.25
"""Seconds."""
CLOCK_NOTE, CLOCK_TROUBLE = 1.0, 30.0
"""Seconds between the clocks."""
CONNECTIONS_NOTE, CONNECTIONS_TROUBLE = 0.8, 0.95
"""Share of the connections that are allowed."""
QUEUE_NOTE, QUEUE_TROUBLE = 0.1, 0.5
"""Share of the server's queue of notifications; when it is full, every NOTIFY fails."""
SHORT_TIMEOUT = 5_000
"""Milliseconds of ``statement_timeout`` and the like below which Roost's statements may be hit."""

POOLER_ADVICE = (
    "give workers a DSN that leads to Postgres itself, or a pooler in session mode; in transaction "
    "mode they find jobs by polling, up to poll_interval later"
)


def judge_round_trip(connection: ConnectionFacts) -> Iterable[Finding]:
    """Judge how fast the database answers."""
    seconds = connection.round_trip
    slow = seconds > SLOW_ROUND_TRIP
    yield Finding(
        check="round_trip",
        level=FindingLevel.NOTE if slow else FindingLevel.OK,
        seen=f"the database answers within {duration(seconds)}",
        advice="run workers near the database: each claim and each write waits for it"
        if slow
        else None,
        data={"seconds": seconds},
    )


def judge_pooler(connection: ConnectionFacts) -> Iterable[Finding]:
    """Say whether a pooler stands between this process and Postgres."""
    pids = sorted(set(connection.server_pids))
    behind = is_pooled(connection)
    seen, advice = "the connection leads to Postgres itself", None
    if len(pids) > 1:
        seen = f"a pooler in transaction mode: {len(pids)} server processes answered one connection"
        advice = POOLER_ADVICE
    elif behind:
        seen = "a pooler: another process answers than the one that accepted the connection"
        advice = POOLER_ADVICE
    yield Finding(
        check="pooler",
        level=FindingLevel.NOTE if behind else FindingLevel.OK,
        seen=seen,
        advice=advice,
        data={"pooler": behind, "server_pids": pids},
    )


def is_pooled(connection: ConnectionFacts) -> bool:
    """Whether another process answers than the one that the driver was told of."""
    pids = set(connection.server_pids)
    return len(pids) > 1 or (connection.client_pid is not None and pids != {connection.client_pid})


def judge_notify(notify: float | None, connection: ConnectionFacts) -> Iterable[Finding]:
    """Judge the round trip of a notification."""
    if notify is None:
        pooled = is_pooled(connection)
        yield Finding(
            check="notifications",
            level=FindingLevel.NOTE if pooled else FindingLevel.TROUBLE,
            seen="a notification did not come back: workers find jobs by polling",
            advice=POOLER_ADVICE
            if pooled
            else "look for a proxy, a firewall or a pooler between here and Postgres that drops "
            "notifications",
            data={"seconds": None},
        )
        return
    slow = notify > SLOW_NOTIFY
    yield Finding(
        check="notifications",
        level=FindingLevel.NOTE if slow else FindingLevel.OK,
        seen=f"a notification came back within {duration(notify)}",
        advice="the server or the network is busy; jobs start that much later" if slow else None,
        data={"seconds": notify},
    )


def judge_clock(connection: ConnectionFacts) -> Iterable[Finding]:
    """Compare this machine's clock with the database's, by which jobs become due."""
    skew = max(abs(connection.clock_ahead) - connection.clock_error, 0.0)
    level = FindingLevel.OK
    if skew > CLOCK_NOTE:
        level = FindingLevel.TROUBLE if skew > CLOCK_TROUBLE else FindingLevel.NOTE
    side = "behind" if connection.clock_ahead > 0 else "ahead of"
    seen = "this machine's clock and the database's agree"
    if level is not FindingLevel.OK:
        seen = f"this machine's clock is {duration(skew)} {side} the database's"
    yield Finding(
        check="clock",
        level=level,
        seen=seen,
        advice=None
        if level is FindingLevel.OK
        else "synchronize the clocks (NTP); jobs become due by the database's, so a scheduled_at "
        "that was computed here is off by that much",
        data={
            "ahead_seconds": -connection.clock_ahead,
            "error_seconds": connection.clock_error,
        },
    )


def judge_server(server: ServerFacts) -> Iterable[Finding]:
    """Judge what kind of server it is."""
    seen = f"Postgres {server.version}, database {server.database}, role {server.role}"
    data = {"version": server.version, "database": server.database, "role": server.role}
    if server.in_recovery:
        yield Finding(
            check="server",
            level=FindingLevel.TROUBLE,
            seen=f"{seen}: a standby, which is read-only",
            advice="use the primary: a DSN with both hosts and target_session_attrs=read-write",
            data={**data, "in_recovery": True},
        )
    elif server.encoding != "UTF8":
        yield Finding(
            check="server",
            level=FindingLevel.NOTE,
            seen=f"{seen}, encoding {server.encoding}",
            advice="use a database in UTF8: others refuse some text",
            data={**data, "encoding": server.encoding},
        )
    else:
        yield Finding(check="server", level=FindingLevel.OK, seen=seen, data=data)


def judge_notify_queue(server: ServerFacts) -> Iterable[Finding]:
    """Judge how full the server's queue of notifications is."""
    usage = server.notify_queue_usage
    level = FindingLevel.OK
    if usage > QUEUE_NOTE:
        level = FindingLevel.TROUBLE if usage > QUEUE_TROUBLE else FindingLevel.NOTE
    yield Finding(
        check="notify_queue",
        level=level,
        seen=f"the server's queue of notifications is {usage:.0%} full",
        advice=None
        if level is FindingLevel.OK
        else "find a session that listens and stays in a transaction (pg_stat_activity), and end "
        "it; when the queue is full, every transaction that notifies fails",
        data={"usage": usage},
    )


def judge_connections(limits: ConnectionLimits) -> Iterable[Finding]:
    """Judge how many more connections may be opened."""
    for subject, used, most in (
        ("server", limits.server, limits.server_limit),
        ("database", limits.database, limits.database_limit),
        ("role", limits.role, limits.role_limit),
    ):
        if most < 0:
            continue
        share = used / max(most, 1)
        level = FindingLevel.OK
        if share > CONNECTIONS_NOTE:
            level = FindingLevel.TROUBLE if share > CONNECTIONS_TROUBLE else FindingLevel.NOTE
        yield Finding(
            check="connections",
            level=level,
            subject=subject,
            seen=f"{used} of {most} connections of the {subject} are in use",
            advice=None
            if level is FindingLevel.OK
            else "raise the limit (max_connections, or connection limit of the database or role), "
            "or run fewer processes: a worker has five connections, a client up to ten",
            data={"used": used, "limit": most},
        )


HURTFUL = (
    *("autovacuum", "track_counts", "fsync", "full_page_writes", "synchronous_commit"),
    *("default_transaction_read_only", "default_transaction_isolation"),
    *("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"),
    *("idle_session_timeout", "transaction_timeout", "jit", "jit_above_cost"),
)
"""The settings that are read."""

_BAD_VALUES = {
    ("autovacuum", "off"): (
        FindingLevel.TROUBLE,
        "turn it on: each job leaves dead rows, and only vacuum removes them",
    ),
    ("track_counts", "off"): (
        FindingLevel.TROUBLE,
        "turn it on: without it autovacuum does not know what to do",
    ),
    ("fsync", "off"): (
        FindingLevel.TROUBLE,
        "turn it on: a crash of the machine can destroy the database",
    ),
    ("full_page_writes", "off"): (
        FindingLevel.TROUBLE,
        "turn it on: a crash of the machine can destroy the database",
    ),
    ("synchronous_commit", "off"): (
        FindingLevel.NOTE,
        "turn it on if jobs must survive a crash of the server: it loses the last half second",
    ),
    ("default_transaction_read_only", "on"): (
        FindingLevel.TROUBLE,
        "turn it off for this role or database: no job can be enqueued or finished",
    ),
}
_TIMEOUTS = ("statement_timeout", "lock_timeout", "transaction_timeout")


def judge_settings(settings: Mapping[str, str]) -> Iterable[Finding]:
    """Judge the settings that a new session of this role gets."""
    found = [
        _setting(name, value, level, advice)
        for (name, value), (level, advice) in _BAD_VALUES.items()
        if settings.get(name) == value
    ]
    for name in _TIMEOUTS:
        if 0 < _number(settings, name) < SHORT_TIMEOUT:
            advice = "set it to at least 5s for this role, or 0: it can end Roost's statements"
            found.append(_setting(name, f"{settings[name]} ms", FindingLevel.NOTE, advice))
    if _number(settings, "idle_session_timeout"):
        advice = "set it to 0 for this role: it ends the listening connections, again and again"
        value = f"{settings['idle_session_timeout']} ms"
        found.append(_setting("idle_session_timeout", value, FindingLevel.NOTE, advice))
    if 0 < _number(settings, "idle_in_transaction_session_timeout") < SHORT_TIMEOUT:
        name = "idle_in_transaction_session_timeout"
        advice = (
            "set it to at least 5s for this role: it ends transactions of a worker whose event "
            "loop is late"
        )
        found.append(_setting(name, f"{settings[name]} ms", FindingLevel.NOTE, advice))
    isolation = settings.get("default_transaction_isolation", "read committed")
    if isolation != "read committed":
        advice = (
            "set it to read committed for this role: enqueues notify workers each time, and "
            "transactions fail with serialization errors more often"
        )
        found.append(
            _setting("default_transaction_isolation", isolation, FindingLevel.NOTE, advice)
        )
    cost = _number(settings, "jit_above_cost")
    if settings.get("jit") == "on" and 0 <= cost < 10_000:
        advice = "set jit to off for this role: compiling takes longer than Roost's statements"
        found.append(_setting("jit", f"on above a cost of {cost:g}", FindingLevel.NOTE, advice))
    yield from found
    if not found:
        yield Finding(
            check="settings",
            level=FindingLevel.OK,
            seen="no setting of the server hurts",
            data={"synchronous_commit": settings.get("synchronous_commit")},
        )


def _number(settings: Mapping[str, str], name: str) -> float:
    return float(settings.get(name, "0"))


def _setting(name: str, value: str, level: FindingLevel, advice: str) -> Finding:
    return Finding(
        check="settings",
        level=level,
        subject=name,
        seen=f"{name} is {value}",
        advice=advice,
        data={"value": value},
    )
