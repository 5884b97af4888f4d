"""A second module for the worker processes, with entries that fire each second."""

from __future__ import annotations

import roost


@roost.cron("* * * * * *", name="beat")
@roost.cron("* * * * * *", name="every beat", misfire="all")
@roost.job("beat")
async def beat() -> None: ...
