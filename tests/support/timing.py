"""The mark ``timing``: run such a test once more when it fails, and name it in the summary.

A pytest plugin, loaded by the ``conftest.py`` at the root of the project.
"""

from __future__ import annotations

import pytest

FOLDERS = ("chaos", "cli", "client", "drivers", "embedded", "life", "worker")
"""Folders whose tests all have the mark. They wait for processes, servers and deadlines, which a
machine under load can break."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "timing: depends on time or load; runs once more when it fails. A pass is then listed as "
        "flaky, and a second failure fails the run",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name in FOLDERS:
            item.add_marker(pytest.mark.timing)
        if item.get_closest_marker("timing"):
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    passed = {report.nodeid for report in terminalreporter.getreports("passed")}
    again = {report.nodeid for report in terminalreporter.getreports("rerun")}
    if flaky := sorted(passed & again):
        terminalreporter.section("flaky tests", yellow=True)
        for nodeid in flaky:
            terminalreporter.line(f"FLAKY {nodeid}: failed, and passed when it was run again")
