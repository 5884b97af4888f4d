-- A batch of jobs of one kind is inserted without asking for conflicts, row by row, as long as there
-- are none: to ask took a fifth of the time.
create or replace function roost.insert_homogeneous(content text, out new_ids bigint[], out new_keys text[])
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    batch jsonb := content;
    common record;
    due_at timestamptz;
    asks boolean := false;
begin
    select c.*, limits.task is not null as limited
    into common
    from jsonb_to_record(batch -> 'common') as c (
        queue text,
        task text,
        priority integer,
        max_attempts integer,
        scheduled_at timestamptz,
        tags text[],
        timeout_seconds integer,
        metadata jsonb
    )
    left join roost.limits on limits.task = c.task;
    due_at := coalesce(common.scheduled_at, statement_timestamp());

    if jsonb_array_length(batch -> 'args') < 100 then
        -- Not worth a subtransaction, of which a transaction should not have too many.
        asks := true;
    else
        begin
            with inserted as (
                insert into roost.jobs as job (
                    queue, task, args, priority, max_attempts, scheduled_at, inserted_at,
                    unique_key, tags, timeout_seconds, metadata, limited
                )
                select
                    common.queue, common.task, new.args, common.priority, common.max_attempts,
                    due_at, statement_timestamp(), new.unique_key, common.tags,
                    common.timeout_seconds, common.metadata, common.limited
                from rows from (
                    jsonb_array_elements(batch -> 'args'),
                    jsonb_array_elements_text(batch -> 'keys')
                ) with ordinality as new (args, unique_key, place)
                order by new.place
                returning job.id, job.unique_key
            )
            select array_agg(id), array_agg(unique_key)
            into new_ids, new_keys
            from inserted;
        exception
            when unique_violation then
                -- All of it is undone; what was written till then was in vain.
                asks := true;
        end;
    end if;

    if asks then
        with inserted as (
            insert into roost.jobs as job (
                queue, task, args, priority, max_attempts, scheduled_at, inserted_at,
                unique_key, tags, timeout_seconds, metadata, limited
            )
            select
                common.queue, common.task, new.args, common.priority, common.max_attempts,
                due_at, statement_timestamp(), new.unique_key, common.tags,
                common.timeout_seconds, common.metadata, common.limited
            from rows from (
                jsonb_array_elements(batch -> 'args'),
                jsonb_array_elements_text(batch -> 'keys')
            ) with ordinality as new (args, unique_key, place)
            order by new.place
            on conflict (unique_key)
                where unique_key is not null and state in ('available', 'executing', 'retryable')
                do nothing
            returning job.id, job.unique_key
        )
        select array_agg(id), array_agg(unique_key)
        into new_ids, new_keys
        from inserted;
    end if;

    if new_ids is not null and due_at <= statement_timestamp() + interval '1 minute' then
        perform roost.announce(common.queue);
    end if;
end
$$;

revoke execute on function roost.insert_homogeneous(text) from public;

comment on function roost.insert_homogeneous is
    'Insert jobs that differ in args and unique keys only; return the ids and the keys of those that their keys did not keep out, or null.';
