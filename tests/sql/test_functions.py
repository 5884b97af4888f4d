"""Each function of the schema has a file of its name, and parameters with names of their own."""

from __future__ import annotations

from tests.support.job_table import JobTable

from roost._sql import functions

PUBLIC = ["enqueue", "set_limit", "clear_limit"]
"""Their parameters have the names of the columns: callers write them (``queue => 'mail'``)."""


def test_each_function_has_a_file_of_its_name(table: JobTable) -> None:
    names = [name.removeprefix("functions.") for name in (each.name for each in functions())]
    created = table.rows(
        "select proname::text from pg_proc where pronamespace = 'roost'::regnamespace order by 1"
    )
    assert [name for (name,) in created] == names


def test_no_parameter_has_the_name_of_a_column(table: JobTable) -> None:
    # What a function in SQL returns has no name within it, so that nothing is shadowed.
    shadowing = table.rows(
        """
        select p.proname::text, parameter.name
        from pg_proc as p
        join pg_language as l on l.oid = p.prolang
        cross join lateral unnest(p.proargnames, p.proargmodes) as parameter (name, mode)
        where p.pronamespace = 'roost'::regnamespace
            and p.proname <> all ($1::text[])
            and (l.lanname <> 'sql' or coalesce(parameter.mode, 'i') = 'i')
            and parameter.name in (
                select a.attname
                from pg_attribute as a
                join pg_class as c on c.oid = a.attrelid and c.relkind = 'r'
                where c.relnamespace = 'roost'::regnamespace and a.attnum > 0
            )
        order by 1, 2
        """,
        PUBLIC,
    )
    assert shadowing == []
