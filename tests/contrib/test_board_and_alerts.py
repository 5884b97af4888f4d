"""The board and the alert rules use metrics that exist, and alerts fire when they must."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from roost.cli.app import app
from roost.contrib.metrics import METRICS

ROOT = Path(__file__).parents[2]
BOARD = ROOT / "docs/operations/grafana.json"
RULES = ROOT / "docs/operations/alerts.yaml"
SITUATIONS = Path(__file__).parent / "alerts.test.yaml"
NAME = re.compile(r"\broost_\w+")
SELECTED = re.compile(r"(roost_\w+)\{([^}]*)\}")
LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}
LABELS = {
    f"{metric.name}{suffix}": {*metric.labels, "instance", "job", "le"}
    for metric in METRICS
    for suffix in SUFFIXES.get(metric.kind, ("",))
}
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed (Debian's package prometheus has it)"
)


def board() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(BOARD.read_text(encoding="utf-8"))
    return found


def queries() -> Iterator[str]:
    for panel in board()["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    for variable in board()["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["definition"]


def expressions() -> str:
    """Return the rules without their texts for people, and without comments."""
    text = RULES.read_text(encoding="utf-8")
    text = re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
    return re.sub(r"^ {8}annotations:\n(?: {10}.*\n|\n)*", "", text, flags=re.MULTILINE)


@pytest.mark.parametrize("used", [*queries(), expressions()])
def test_each_metric_that_is_used_exists_with_its_labels(used: str) -> None:
    names = set(NAME.findall(used))
    assert names
    assert names <= LABELS.keys()
    for name, selected in SELECTED.findall(used):
        assert set(LABEL.findall(re.sub(r'"[^"]*"', '""', selected))) <= LABELS[name]


def test_every_metric_that_alerts_need_is_in_the_rules() -> None:
    assert len(NAME.findall(expressions())) >= 12


def test_each_alert_says_what_is_wrong_and_what_to_do() -> None:
    text = RULES.read_text(encoding="utf-8")
    alerts = re.split(r"^ {6}- alert: ", text, flags=re.MULTILINE)[1:]
    for alert in alerts:
        assert re.search(r"^ {8}labels: \{severity: (warning|critical)\}$", alert, re.MULTILINE)
        assert re.search(r"^ {10}summary: ", alert, re.MULTILINE)
        assert re.search(r"^ {10}description: ", alert, re.MULTILINE)


def test_the_commands_that_alerts_advise_exist() -> None:
    text = " ".join(RULES.read_text(encoding="utf-8").split())
    commands = re.findall(r"`roost ([^`]+)`", text)
    assert len(commands) >= 4
    for command in commands:
        words = shlex.split(re.sub(r"\{\{.*?\}\}", "x", command))
        answer = CliRunner().invoke(app, [*words, "--help"])
        assert answer.exit_code == 0, answer.output


def test_the_panels_of_the_board_have_places_and_sources_of_their_own() -> None:
    panels = board()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"


def promtool(*arguments: str) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_prometheus_accepts_the_rules() -> None:
    promtool("check", "rules", str(RULES))


@needs_promtool
def test_the_alerts_fire_when_they_must_and_only_then(tmp_path: Path) -> None:
    situations = SITUATIONS.read_text(encoding="utf-8").replace("{rules}", str(RULES))
    file = tmp_path / "situations.yaml"
    file.write_text(situations, encoding="utf-8")
    promtool("test", "rules", str(file))


@needs_promtool
def test_prometheus_accepts_the_queries_of_the_board(tmp_path: Path) -> None:
    """As rules that record them: promtool has no other check of a query."""
    rules = [
        {"record": f"board:{number}", "expr": expr.replace("$__rate_interval", "5m")}
        for number, expr in enumerate(queries())
        if not expr.startswith("label_values")
    ]
    file = tmp_path / "board.json"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "board", "rules": rules}]}))
    promtool("check", "rules", str(file))
