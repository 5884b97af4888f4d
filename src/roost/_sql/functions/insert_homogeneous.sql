-- Insert jobs that differ in args and unique keys only. A large batch is first inserted without "on
-- conflict", which took a fifth of the time, and again with it if a key is taken.
create or replace function roost.insert_homogeneous(
    content text, out new_ids bigint[], out new_keys text[]
)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    batch jsonb := content;
    new_job record;
    limit_by text;
    may_conflict boolean := false;
    used_keys text[] := '{}';
begin
    select
        {{new_job}}
    into new_job
    from jsonb_to_record(batch -> 'common') as encoded (
        {{new_job_fields}}
    );
    if new_job.limited then
        select limits.limit_by
        into limit_by
        from roost.limits
        where limits.task = new_job.task;
    end if;

    -- As the fragment key_is_unused.
    if batch ? 'keys' and exists (select from roost.unique_waiting_used) then
        select coalesce(array_agg(wanted.unique_key), '{}')
        into used_keys
        from jsonb_array_elements_text(batch -> 'keys') as wanted (unique_key)
        cross join lateral (
            select started.id
            from roost.jobs as started
            where started.unique_key = wanted.unique_key
                and started.unique_waiting
                and started.lease_no > 0
                and started.state in ('available', 'executing', 'retryable')
            limit 1
        ) as used;
    end if;

    if jsonb_array_length(batch -> 'args') < 100 or cardinality(used_keys) > 0 then
        -- A small batch is not worth a subtransaction: many of them slow a transaction down.
        may_conflict := true;
    else
        begin
            with inserted as (
                insert into roost.jobs as job (
                    args, unique_key, limit_key,
                    {{new_job_columns}}
                )
                select
                    each.args, each.unique_key, roost.limit_key(limit_by, each.args, null),
                    {{new_job_values}}
                from rows from (
                    jsonb_array_elements(batch -> 'args'),
                    jsonb_array_elements_text(batch -> 'keys')
                ) with ordinality as each (args, unique_key, place)
                order by each.place
                returning job.id, job.unique_key
            )
            select array_agg(id), array_agg(unique_key)
            into new_ids, new_keys
            from inserted;
        exception
            when unique_violation then
                -- The subtransaction is rolled back, with all rows of this batch.
                may_conflict := true;
        end;
    end if;

    if may_conflict then
        with inserted as (
            insert into roost.jobs as job (
                args, unique_key, limit_key,
                {{new_job_columns}}
            )
            select
                each.args, each.unique_key, roost.limit_key(limit_by, each.args, null),
                {{new_job_values}}
            from rows from (
                jsonb_array_elements(batch -> 'args'),
                jsonb_array_elements_text(batch -> 'keys')
            ) with ordinality as each (args, unique_key, place)
            where each.unique_key is null
                or each.unique_key <> all (used_keys)
            order by each.place
            {{unless_key_is_taken}}
            returning job.id, job.unique_key
        )
        select array_agg(id), array_agg(unique_key)
        into new_ids, new_keys
        from inserted;
    end if;

    if limit_by is not null then
        perform roost.wake_key(job.task, job.limit_key, job.queue, min(job.scheduled_at))
        from roost.jobs as job
        where job.id = any (new_ids)
        group by job.task, job.limit_key, job.queue;
    end if;
    if new_ids is not null and new_job.due_at <= statement_timestamp() + interval '1 minute' then
        perform roost.announce(new_job.queue);
    end if;
end
$$;

revoke execute on function roost.insert_homogeneous(text) from public;

comment on function roost.insert_homogeneous is
    'Insert jobs that differ in args and unique keys only; return ids and keys of the inserted ones, or null.';
