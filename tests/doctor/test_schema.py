"""The doctor finds what is wrong with the schema and the rights, and its advice mends it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
import pytest
from tests.doctor.conftest import Examine, examine_at
from tests.support.job_table import JobTable

from roost import FindingLevel
from roost._sql.expected import expected_schema
from roost._sql.roles import documented_roles


def follow(table: JobTable, advice: str | None) -> None:
    """Run the statement that an advice ends with."""
    found = re.search(r": ([a-z][^:]*;)$", advice or "")
    assert found is not None, advice
    table.script(found[1])


def test_a_new_database_has_exactly_what_is_expected(table: JobTable) -> None:
    expected = expected_schema()
    relations: dict[str, str] = dict(
        table.rows(
            """
            select relname::text, relkind::text
            from pg_class
            where relnamespace = 'roost'::regnamespace and relkind in ('r', 'i')
            """
        )
    )
    assert {name for name, kind in relations.items() if kind == "r"} == expected.tables
    assert {name for name, kind in relations.items() if kind == "i"} == set(expected.indexes)
    functions = table.rows(
        "select proname::text, md5(prosrc) from pg_proc where pronamespace = 'roost'::regnamespace"
    )
    assert dict(functions) == expected.functions


def test_a_new_database_has_no_trouble_with_its_schema(examine: Examine) -> None:
    found = examine()
    for check in ("schema", "tables", "indexes", "functions", "rights"):
        assert found.one(check).level is FindingLevel.OK


def test_a_missing_index_is_found_and_the_advice_makes_it_again(
    table: JobTable, examine: Examine
) -> None:
    definition = "select indexdef from pg_indexes where indexname = 'jobs_unique_key'"
    before = table.value(definition)
    table.script("drop index roost.jobs_unique_key")
    finding = examine().one("indexes")
    assert (finding.level, finding.subject) == (FindingLevel.TROUBLE, "jobs_unique_key")
    follow(table, finding.advice)
    assert table.value(definition) == before
    assert examine().one("indexes").level is FindingLevel.OK


def test_an_invalid_index_is_found_and_the_advice_mends_it(
    table: JobTable, examine: Examine
) -> None:
    table.script(
        "update pg_index set indisvalid = false where indexrelid = 'roost.jobs_results'::regclass"
    )
    finding = examine().one("indexes")
    assert (finding.level, finding.subject) == (FindingLevel.TROUBLE, "jobs_results")
    follow(table, finding.advice)
    assert examine().one("indexes").level is FindingLevel.OK


def test_a_missing_table_is_found(table: JobTable, examine: Examine) -> None:
    table.script("drop table roost.unique_waiting_used")
    finding = examine().one("tables")
    assert finding.level is FindingLevel.TROUBLE
    assert finding.data == {"missing": ["unique_waiting_used"]}


def test_missing_and_changed_functions_are_found(table: JobTable, examine: Examine) -> None:
    table.script(
        """
        drop function roost.await_job(bigint);
        create or replace function roost.announce(p_queue text) returns void
            language sql as 'select';
        """
    )
    finding = examine().one("functions")
    assert finding.level is FindingLevel.TROUBLE
    assert finding.data == {"missing": ["await_job"], "changed": ["announce"]}


def test_without_a_schema_that_is_the_one_finding_about_it(empty_dsn: str) -> None:
    found = examine_at(empty_dsn)
    schema = found.one("schema")
    assert schema.level is FindingLevel.TROUBLE
    assert "roost init" in (schema.advice or "")
    assert {each.check for each in found.all} >= {"server", "notifications", "long_transactions"}
    assert not {each.check for each in found.all} & {"tables", "rights", "workers", "cron"}


def test_an_older_schema_is_found(table: JobTable, examine: Examine) -> None:
    table.script("delete from roost.migrations")
    schema = examine().one("schema")
    assert schema.level is FindingLevel.TROUBLE
    assert schema.data["version"] is None
    assert "not applied" in schema.seen
    assert "roost migrate up" in (schema.advice or "")


@pytest.mark.parametrize(
    ("oldest_code", "level"), [(1, FindingLevel.NOTE), (1_000, FindingLevel.TROUBLE)]
)
def test_a_newer_schema_is_trouble_if_this_code_can_not_use_it(
    table: JobTable, examine: Examine, oldest_code: int, level: FindingLevel
) -> None:
    table.rows(
        "insert into roost.migrations (version, name, oldest_code) values (1000, 'new', $1::int)",
        oldest_code,
    )
    schema = examine().one("schema")
    assert schema.level is level
    assert schema.data["version"] == 1_000


def test_a_newer_schema_is_not_compared_with_what_this_code_makes(
    role: str, table: JobTable
) -> None:
    table.script(
        f"""
        insert into roost.migrations (version, name, oldest_code) values (1000, 'new', 1);
        drop index roost.jobs_counted;
        drop function roost.await_job(bigint), roost.set_limit, roost.clear_limit cascade;
        grant usage on schema roost to {user(role)};
        grant select on all tables in schema roost to {user(role)};
        grant insert, update on roost.jobs, roost.queues, roost.cron to {user(role)};
        grant insert on roost.key_wakes to {user(role)};
        grant execute on function roost.add_cron, roost.remove_cron to {user(role)};
        grant insert, update, delete on roost.dependencies to {user(role)};
        grant delete on roost.jobs, roost.jobs_archive to {user(role)};
        grant update, delete on roost.unique_holds to {user(role)};
        """
    )
    found = examine_at(role)
    assert not {each.check for each in found.all} & {"tables", "indexes", "functions"}
    assert found.one("rights").level is FindingLevel.OK
    assert "operator" in found.one("rights").data["roles"]


@pytest.fixture
def role(dsn: str, table: JobTable) -> Iterator[str]:
    """Yield the DSN of a role that has no right yet."""
    name = f"roost_doctor_{table.value('select pg_backend_pid()')}"
    table.script(f"create role {name} login password 'secret'")
    try:
        yield psycopg.conninfo.make_conninfo(dsn, user=name, password="secret")
    finally:
        table.script(f"drop owned by {name}; drop role {name}")


def user(role: str) -> str:
    return str(psycopg.conninfo.conninfo_to_dict(role)["user"])


def test_a_role_without_rights_is_found(role: str) -> None:
    found = examine_at(role)
    assert found.one("rights").level is FindingLevel.TROUBLE
    assert found.one("rights").data == {"roles": []}
    # Nothing fails: what could not be read says so.
    assert found.one("workers").data == {"unseen": True}
    assert "permission denied" in found.one("workers").seen


def test_a_right_that_is_missing_is_named(role: str, table: JobTable) -> None:
    for text in (
        "grant usage on schema roost to {}",
        "grant select on all tables in schema roost to {}",
        "revoke select on roost.queues from {}",
    ):
        table.script(text.format(user(role)))
    finding = examine_at(role).one("rights")
    assert finding.level is FindingLevel.TROUBLE
    assert (finding.data["partial"], finding.data["missing"]) == ("viewer", ["select on queues"])


def test_every_grant_of_the_roles_is_understood(table: JobTable) -> None:
    """Each right is on an object that exists."""
    functions = {name for (name,) in table.rows("select proname::text from pg_proc")}
    tables = expected_schema().tables
    assert [role.name for role in documented_roles()] == [
        *("producer", "worker", "viewer", "operator")
    ]
    for role in documented_roles():
        for right in role.required | role.optional:
            known = functions if right.verb == "execute" else tables | {"*", "roost"}
            assert right.object in known
