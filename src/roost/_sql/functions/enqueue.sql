-- Enqueue a job from a trigger or another language. The clients check values before they send them;
-- this function makes the same checks. Its parameters are public and have the names of the columns, so
-- that statements qualify them (enqueue.task). Options that are null are filled like those of the clients;
-- see roost.fill_options.
create or replace function roost.enqueue(
    task text,
    args jsonb default '{}',
    queue text default null,
    priority integer default null,
    max_attempts integer default null,
    scheduled_at timestamptz default null,
    unique_key text default null,
    tags text[] default null,
    timeout_seconds integer default null,
    metadata jsonb default null,
    schedule_in interval default null,
    on_conflict text default 'skip',
    unique_while text default 'active',
    unique_for interval default null,
    unique_by text[] default null
)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    new_id bigint;
    new_limit_key text;
    is_limited boolean;
    problem text;
    filled jsonb;
    due_at timestamptz := coalesce(
        enqueue.scheduled_at, statement_timestamp() + enqueue.schedule_in, statement_timestamp()
    );
    done record;
begin
    problem := case
        when length(task) not between 1 and 200 then 'task must have 1 to 200 characters'
        when length(queue) not between 1 and 200 then 'queue must have 1 to 200 characters'
        when length(unique_key) not between 1 and 500
            then 'unique_key must have 1 to 500 characters'
        when exists (
            select
            from unnest(tags) as tag
            where coalesce(length(tag), 0) not between 1 and 200
        ) then 'each of tags must have 1 to 200 characters'
        when concat_ws(' ', task, queue, unique_key, array_to_string(tags, ' ')) ~ '[[:cntrl:]]'
            then 'task, queue, unique_key and tags must be one line without control characters'
        when btrim(task) = '' then 'task must not be blank'
        when btrim(queue) = '' then 'queue must not be blank'
        when btrim(unique_key) = '' then 'unique_key must not be blank'
        when exists (select from unnest(tags) as tag where btrim(tag) = '')
            then 'each of tags must not be blank'
        when jsonb_typeof(args) <> 'object' then 'args must be a JSON object'
        when jsonb_typeof(metadata) <> 'object' then 'metadata must be a JSON object'
        when pg_column_size(args) + coalesce(pg_column_size(metadata), 0) > 16777216
            then 'args and metadata must have 16 MiB at most together'
        when max_attempts < 1 then 'max_attempts must be 1 or more'
        when timeout_seconds < 1 then 'timeout_seconds must be 1 or more'
        when scheduled_at is not null and schedule_in is not null
            then 'scheduled_at and schedule_in exclude each other'
        when schedule_in < interval '0' then 'schedule_in must be 0 or more'
        when due_at < '0002-01-01Z' or due_at > '9998-12-31Z'
            then 'scheduled_at must be in the years 2 to 9998'
        when coalesce(on_conflict not in ('skip', 'return', 'replace', 'raise'), true)
            then 'on_conflict must be skip, return, replace or raise'
        when coalesce(unique_while not in ('active', 'waiting'), true)
            then 'unique_while must be active or waiting'
        when unique_for <= interval '0' or unique_for > interval '36525 days'
            then 'unique_for must be more than 0 and at most 36,525 days'
        when unique_key is not null and unique_by is not null
            then 'unique_key and unique_by exclude each other'
        when unique_key is null
            and unique_by is null
            and (on_conflict <> 'skip' or unique_while <> 'active' or unique_for is not null)
            then 'on_conflict, unique_while and unique_for need a unique_key or unique_by'
    end;
    if problem is not null then
        raise exception '%', problem using errcode = 'check_violation';
    end if;
    select declared.options
    into filled
    from roost.tasks as declared
    where declared.name = enqueue.task;
    enqueue.queue := coalesce(enqueue.queue, filled ->> 'queue', 'default');
    enqueue.priority := coalesce(enqueue.priority, (filled ->> 'priority')::integer, 0);
    enqueue.max_attempts := coalesce(
        enqueue.max_attempts, (filled ->> 'max_attempts')::integer, 20
    );
    enqueue.timeout_seconds := coalesce(
        enqueue.timeout_seconds, (filled ->> 'timeout_seconds')::integer
    );
    enqueue.tags := coalesce(
        enqueue.tags,
        (
            select array_agg(each.tag order by each.place)
            from jsonb_array_elements_text(filled -> 'tags') with ordinality as each (tag, place)
        )
    );

    if on_conflict <> 'skip'
        or unique_while <> 'active'
        or unique_for is not null
        or unique_by is not null
    then
        select *
        into done
        from roost.insert_unique_each(
            jsonb_build_array(
                jsonb_strip_nulls(jsonb_build_object(
                    'task', enqueue.task,
                    'queue', enqueue.queue,
                    'priority', enqueue.priority,
                    'max_attempts', enqueue.max_attempts,
                    'scheduled_at', case
                        when enqueue.scheduled_at is not null or enqueue.schedule_in is not null
                            then due_at
                    end,
                    'unique_key', enqueue.unique_key,
                    'tags', enqueue.tags,
                    'timeout_seconds', enqueue.timeout_seconds,
                    'unique_while', enqueue.unique_while,
                    'unique_for', extract(epoch from enqueue.unique_for),
                    'unique_by', enqueue.unique_by
                ))
                -- Nulls inside these are kept.
                || jsonb_build_object('args', enqueue.args)
                || case
                    when enqueue.metadata is null then '{}'
                    else jsonb_build_object('metadata', enqueue.metadata)
                end
            ),
            enqueue.on_conflict
        );
        if done.refusal is not null then
            raise exception '%', format(
                case done.refusal
                    when 'executing' then 'job %s with unique_key %L is running and can''t be replaced'
                    when 'held' then 'job %s with unique_key %L is running, and its unique_for is not over'
                    when 'task' then 'job %s with unique_key %L is of another task'
                    when 'ended' then 'job %s with unique_key %L has ended, and its unique_for is not over'
                    else 'job %s is active with unique_key %L'
                end,
                done.refused_id, done.refused_key
            ) using errcode = 'unique_violation';
        end if;
        return done.job_ids[1];
    end if;

    -- As the fragment key_is_unused.
    if enqueue.unique_key is not null and exists (select from roost.unique_waiting_used) then
        if exists (
            select
            from roost.jobs as started
            where started.unique_key = enqueue.unique_key
                and started.unique_waiting
                and started.lease_no > 0
                and started.state in ('available', 'executing', 'retryable')
        ) then
            return null;
        end if;
    end if;
    insert into roost.jobs (
        task, args, queue, priority, max_attempts, scheduled_at, inserted_at, unique_key, tags,
        timeout_seconds, metadata, limited, limit_key
    )
    values (
        enqueue.task, enqueue.args, enqueue.queue, enqueue.priority, enqueue.max_attempts,
        due_at, statement_timestamp(),
        enqueue.unique_key, enqueue.tags, enqueue.timeout_seconds, enqueue.metadata,
        exists (select from roost.limits where limits.task = enqueue.task),
        (
            select roost.limit_key(limits.limit_by, enqueue.args, null)
            from roost.limits
            where limits.task = enqueue.task
        )
    )
    on conflict do nothing
    returning id, jobs.limit_key, jobs.limited
    into new_id, new_limit_key, is_limited;
    if new_id is not null and is_limited and new_limit_key is not null then
        perform roost.wake_key(enqueue.task, new_limit_key, enqueue.queue, due_at);
    end if;
    if new_id is not null
        and due_at <= statement_timestamp() + interval '1 minute'
    then
        perform roost.announce(enqueue.queue);
    end if;
    return new_id;
end
$$;

revoke execute on function roost.enqueue(
    text, jsonb, text, integer, integer, timestamptz, text, text[], integer, jsonb, interval, text, text,
    interval, text[]
) from public;

comment on function roost.enqueue is
    'Insert a job and return its id, or null if an active job has the unique key. For triggers and other languages.';
