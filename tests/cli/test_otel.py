"""`roost run --otel` traces what it runs, if an SDK is configured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.job_table import JobTable

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import StartsRoost

TRACED_TASKS = """
import roost
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

provider = TracerProvider()
provider.add_span_processor(
    SimpleSpanProcessor(ConsoleSpanExporter(formatter=lambda span: f"span {span.name}\\n"))
)
trace.set_tracer_provider(provider)

@roost.job("quick")
async def quick() -> None:
    pass
"""


def test_it_traces_with_the_sdk_of_the_module(
    dsn: str, table: JobTable, tmp_path: Path, roost_command: StartsRoost
) -> None:
    (tmp_path / "traced.py").write_text(TRACED_TASKS)
    table.add("quick")
    run = roost_command("run", "-m", "traced", "--once", "--otel", ROOST_DSN=dsn)
    assert run.ends() == 0, run.output
    assert "span process default\n" in run.output
    assert "records nothing" not in run.output


def test_a_missing_sdk_is_a_warning(
    dsn: str, table: JobTable, tasks: Path, roost_command: StartsRoost
) -> None:
    job_id = table.add("quick")
    run = roost_command("run", "-m", "tasks", "--once", ROOST_DSN=dsn, ROOST_OTEL="true")
    assert run.ends() == 0, run.output
    assert "WARNING roost.cli: --otel records nothing: no OpenTelemetry SDK" in run.output
    assert table.get(job_id).state == "completed"


def test_an_sdk_for_metrics_alone_is_enough(
    dsn: str, table: JobTable, tasks: Path, roost_command: StartsRoost
) -> None:
    (tasks / "measured.py").write_text(
        "from opentelemetry import metrics\n"
        "from opentelemetry.sdk.metrics import MeterProvider\n"
        "metrics.set_meter_provider(MeterProvider())\n"
        "from tasks import *\n"
    )
    table.add("quick")
    run = roost_command("run", "-m", "measured", "--once", "--otel", ROOST_DSN=dsn)
    assert run.ends() == 0, run.output
    assert "records nothing" not in run.output


def test_nothing_of_opentelemetry_is_imported_without_it(
    dsn: str, table: JobTable, tmp_path: Path, roost_command: StartsRoost
) -> None:
    (tmp_path / "looks.py").write_text(
        "import sys, roost\n\n"
        "@roost.job('looks')\n"
        "def looks() -> list[str]:\n"
        "    return [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    job_id = table.add("looks")
    run = roost_command("run", "-m", "looks", "--once", ROOST_DSN=dsn)
    assert run.ends() == 0, run.output
    assert table.get(job_id).result == []


def test_a_missing_package_is_named(
    dsn: str, table: JobTable, tasks: Path, roost_command: StartsRoost
) -> None:
    (tasks / "site").mkdir()
    (tasks / "site" / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "found = util.find_spec\n"
        "util.find_spec = lambda name, *at: None if name == 'opentelemetry' else found(name, *at)\n"
    )
    run = roost_command(
        *("run", "-m", "tasks", "--once", "--otel"), ROOST_DSN=dsn, PYTHONPATH=str(tasks / "site")
    )
    assert run.ends() == 2
    assert "pip install 'anyroost[otel]'" in run.output
    assert "Traceback" not in run.output
