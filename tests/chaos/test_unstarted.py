"""Jobs that a killed worker had claimed and not started use no attempt; started ones use one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.chaos.conftest import Chaos

QUICK: dict[str, Any] = {
    "heartbeat_interval": 0.3,
    "orphan_stale_after": 1.5,
    "orphan_reaper_interval": 0.2,
}
LINE: dict[str, Any] = {"concurrency": 3, "prefetch": 5}
PATIENT = {"roost._worker.prefetch:MAX_PREFETCH_WAIT": 600.0}
"""With the default, the prefetched jobs would be released before the kill."""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("max_attempts", [1, 3])
def test_only_jobs_that_were_started_use_an_attempt(
    chaos: Chaos, backend: str, max_attempts: int
) -> None:
    quick = [chaos.table.add("note", priority=-2) for _ in range(6)]
    held = [chaos.hold(priority=-1, max_attempts=max_attempts) for _ in range(3)]
    prefetched = [chaos.hold(max_attempts=max_attempts) for _ in range(5)]
    [victim] = chaos.start_ready(backend, constants=PATIENT, **LINE, **QUICK)
    chaos.ends(quick, "completed")
    for job_id in held:
        chaos.started(job_id)
    chaos.until(lambda: chaos.table.states().get("executing") == 8)
    victim.kill()

    chaos.open("gate")
    chaos.start_ready(backend, **QUICK)
    chaos.ends(prefetched, "completed")
    chaos.ends(held, "discarded" if max_attempts == 1 else "completed")
    for job_id in prefetched:
        assert len(chaos.starts(job_id)) == 1
        assert (chaos.table.get(job_id).attempt, chaos.table.get(job_id).errors) == (1, [])
    for job_id in held:
        assert len(chaos.starts(job_id)) == (1 if max_attempts == 1 else 2)
        assert chaos.table.get(job_id).attempt == min(2, max_attempts)
