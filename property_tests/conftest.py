"""Hypothesis' profiles; databases come from the ``conftest.py`` at the root of the project.

The suite is a gate, so by default the same code gets the same answer: examples are derived from the
tests, not drawn at random. Searching is another job: ``HYPOTHESIS_PROFILE=thorough``.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

# A shared machine or a cold database is no failure.
settings.register_profile(
    "default",
    max_examples=150,
    derandomize=True,
    deadline=None,
    # What a failure needs, and no more: one bug, shrunk.
    phases=set(Phase) - {Phase.explain},
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "thorough",
    max_examples=5_000,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "quick",
    settings.get_profile("thorough"),
    max_examples=1000,
    phases=[Phase.generate],
    report_multiple_bugs=False,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
