-- name: publish_options
-- $1 worker id, $2 tasks, $3 the options that its code declares for each, as JSON. New options replace the
-- known ones. Options that were replaced before come from older code: they count only when no living worker
-- declares the newer ones.
with declared as materialized (
    select declared.task, declared.options::jsonb as options
    from unnest($2::text[], $3::text[]) as declared (task, options)
),
added as (
    insert into roost.tasks (name, options, declared_by)
    select declared.task, declared.options, array[$1::bigint]
    from declared
    where not exists (select from roost.tasks as known where known.name = declared.task)
    order by declared.task
    on conflict do nothing
),
-- Other rows are not locked: every worker runs this again and again.
held as materialized (
    select known.name, declared.options
    from declared
    join roost.tasks as known on known.name = declared.task
    where (
            known.options = declared.options
            and $1::bigint <> all (known.declared_by)
        )
        or (
            known.options <> declared.options
            and (
                declared.options <> all (known.replaced)
                or not exists (
                    select
                    from roost.workers as worker
                    where worker.id = any (known.declared_by)
                        and worker.expires_at > now()
                )
            )
        )
    order by known.name
    for update of known
)
update roost.tasks as known
set options = held.options,
    declared_by = case
        when known.options <> held.options then array[$1::bigint]
        else array(
            select worker.id
            from roost.workers as worker
            where worker.id = any (known.declared_by)
            union all
            select $1::bigint
        )
    end,
    replaced = case
        when known.options = held.options then known.replaced
        else pg_catalog.array_append(
            array(
                select older.options
                from pg_catalog.unnest(known.replaced) with ordinality as older (options, n)
                where older.options <> held.options
                    and older.n > pg_catalog.cardinality(known.replaced) - 19
                order by older.n
            ),
            known.options::jsonb
        )
    end
from held
where known.name = held.name;
