"""Hypothesis' profiles; databases come from the ``conftest.py`` at the root of the project.

The suite is a gate, so by default the same code gets the same answer: examples are derived from the
tests, not drawn at random. Searching is another job: ``HYPOTHESIS_PROFILE=thorough``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "default",
    max_examples=150,
    derandomize=True,
    # A shared machine or a cold database is no failure.
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    # What a failure needs, and no more: one bug, shrunk.
    phases=[Phase.explicit, Phase.generate, Phase.target, Phase.shrink],
    report_multiple_bugs=False,
)
settings.register_profile(
    "thorough",
    settings.get_profile("default"),
    max_examples=5_000,
    derandomize=False,
    phases=list(Phase),
    print_blob=True,
)
# To see how soon a bug that was made on purpose is found.
settings.register_profile(
    "mutants",
    settings.get_profile("default"),
    max_examples=400,
    phases=[Phase.generate],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

SECONDS_AN_EXAMPLE = 12
"""Seconds of a test's time limit for each of its examples: 30 minutes in the default profile, where
the longest test takes 115 s on two busy cores (30 November 2026, ``--durations=8``)."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    limit = SECONDS_AN_EXAMPLE * settings().max_examples
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(limit))
