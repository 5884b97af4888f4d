-- Add a cron entry, or replace one that was added before. Returns whether it did: not if code declares
-- an entry of that name. The caller checks the values and computes the next tick.
create or replace function roost.add_cron(p_entry jsonb)
returns boolean
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_entry ? 'fill' then
        -- The client does not know the task's defaults.
        p_entry := roost.fill_options(jsonb_build_array(p_entry)::text)::jsonb -> 0;
    end if;
    insert into roost.cron as known (
        name, source, expression, timezone, task, queue, args, priority, max_attempts, tags,
        timeout_seconds, misfire, overlap, jitter, next_tick_at, inserted_at
    )
    select
        name, 'database', expression, timezone, task, queue, args, priority, max_attempts, tags,
        timeout_seconds, misfire, overlap, jitter, next_tick_at, now()
    from jsonb_to_record(p_entry) as entry (
        name text,
        expression text,
        timezone text,
        task text,
        queue text,
        args jsonb,
        priority integer,
        max_attempts integer,
        tags text[],
        timeout_seconds integer,
        misfire text,
        overlap text,
        jitter double precision,
        next_tick_at timestamptz
    )
    on conflict (name) do update
    set expression = excluded.expression,
        timezone = excluded.timezone,
        task = excluded.task,
        queue = excluded.queue,
        args = excluded.args,
        priority = excluded.priority,
        max_attempts = excluded.max_attempts,
        tags = excluded.tags,
        timeout_seconds = excluded.timeout_seconds,
        misfire = excluded.misfire,
        overlap = excluded.overlap,
        jitter = excluded.jitter,
        next_tick_at = case
            when (known.expression, known.timezone) is distinct from
                (excluded.expression, excluded.timezone)
                then excluded.next_tick_at
            else known.next_tick_at
        end
    where known.source = 'database';
    if not found then
        return false;
    end if;
    perform pg_notify('roost_cron', '');
    return true;
end
$$;

revoke execute on function roost.add_cron(jsonb) from public;

comment on function roost.add_cron is
    'Add or replace a cron entry that no code declares. Only for the clients, which check the values.';
