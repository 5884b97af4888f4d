-- name: publish_tasks
-- $1 worker id, $2 tasks, $3 the options that its code declares for each, as JSON, $4 the JSON schemas of
-- their args, or null. New options replace the known ones. Options that were replaced before come from older
-- code: they count only when no living worker declares the newer ones. Of workers with the same options, the
-- schema of the one that started last counts.
with declared as materialized (
    select
        declared.task, declared.options::jsonb as options, declared.args_schema::jsonb as args_schema
    from unnest($2::text[], $3::text[], $4::text[]) as declared (task, options, args_schema)
),
added as (
    insert into roost.tasks (name, options, args_schema, declared_by)
    select declared.task, declared.options, declared.args_schema, array[$1::bigint]
    from declared
    where not exists (select from roost.tasks as known where known.name = declared.task)
    order by declared.task
    on conflict do nothing
),
-- Other rows are not locked: every worker runs this again and again.
held as materialized (
    select known.name, declared.options, declared.args_schema
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
    args_schema = held.args_schema,
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

-- name: list_tasks
-- Tasks that a worker has had a handler for, with the living workers that have one.
select
    task.name, task.options::text, task.args_schema::text, limits.max_concurrency,
    limits.rate_per_minute, limits.limit_by, known.workers, known.queues
from roost.tasks as task
left join roost.limits as limits on limits.task = task.name
cross join lateral (
    select
        count(*) as workers,
        array(
            select distinct served.queue
            from roost.workers as worker
            cross join lateral pg_catalog.unnest(worker.queues) as served (queue)
            where worker.expires_at > now()
                and task.name = any (worker.known_tasks::text[])
            order by served.queue
        ) as queues
    from roost.workers as worker
    where worker.expires_at > now()
        and task.name = any (worker.known_tasks::text[])
) as known
order by task.name;
