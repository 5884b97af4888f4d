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
    metadata jsonb default null
)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    new_id bigint;
    problem text;
    filled jsonb;
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
        when scheduled_at < '0002-01-01Z' or scheduled_at > '9998-12-31Z'
            then 'scheduled_at must be in the years 2 to 9998'
    end;
    if problem is not null then
        raise exception '%', problem using errcode = 'check_violation';
    end if;
    select declared.options
    into filled
    from roost.tasks as declared
    where declared.name = enqueue.task;
    enqueue.queue := coalesce(enqueue.queue, filled ->> 'queue', 'default');
    insert into roost.jobs (
        task, args, queue, priority, max_attempts, scheduled_at, inserted_at, unique_key, tags,
        timeout_seconds, metadata, limited
    )
    values (
        enqueue.task, enqueue.args, enqueue.queue,
        coalesce(enqueue.priority, (filled ->> 'priority')::integer, 0),
        coalesce(enqueue.max_attempts, (filled ->> 'max_attempts')::integer, 20),
        coalesce(enqueue.scheduled_at, statement_timestamp()), statement_timestamp(),
        enqueue.unique_key,
        coalesce(
            enqueue.tags,
            (
                select array_agg(each.tag order by each.place)
                from jsonb_array_elements_text(filled -> 'tags') with ordinality as each (tag, place)
            )
        ),
        coalesce(enqueue.timeout_seconds, (filled ->> 'timeout_seconds')::integer),
        enqueue.metadata,
        exists (select from roost.limits where limits.task = enqueue.task)
    )
    on conflict do nothing
    returning id into new_id;
    if new_id is not null
        and coalesce(enqueue.scheduled_at, '-infinity') <= statement_timestamp() + interval '1 minute'
    then
        perform roost.announce(enqueue.queue);
    end if;
    return new_id;
end
$$;

revoke execute on function roost.enqueue(
    text, jsonb, text, integer, integer, timestamptz, text, text[], integer, jsonb
) from public;

comment on function roost.enqueue is
    'Insert a job and return its id, or null if an active job has the unique key. For triggers and other languages.';
