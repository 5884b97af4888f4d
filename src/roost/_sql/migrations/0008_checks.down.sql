create or replace function roost.enqueue(
    task text,
    args jsonb default '{}',
    queue text default 'default',
    priority integer default 0,
    max_attempts integer default 20,
    scheduled_at timestamptz default null,
    unique_key text default null,
    tags text[] default null,
    timeout_seconds integer default null,
    metadata jsonb default null
)
returns bigint
language plpgsql
as $$
declare
    new_id bigint;
begin
    -- What the table's own constraints let through and clients refuse.
    if length(task) > 200 or length(queue) > 200 or length(unique_key) not between 1 and 500
        or exists (select from unnest(tags) as tag where length(tag) not between 1 and 200)
    then
        raise exception
            'task, queue and tags have 1 to 200 characters, unique_key 1 to 500'
            using errcode = 'check_violation';
    end if;
    insert into roost.jobs (
        task, args, queue, priority, max_attempts, scheduled_at, inserted_at, unique_key, tags,
        timeout_seconds, metadata, limited
    )
    values (
        enqueue.task, enqueue.args, enqueue.queue, enqueue.priority, enqueue.max_attempts,
        coalesce(enqueue.scheduled_at, statement_timestamp()), statement_timestamp(),
        enqueue.unique_key, enqueue.tags, enqueue.timeout_seconds, enqueue.metadata,
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

alter table roost.jobs
    add constraint jobs_names_check check (queue <> '' and task <> ''),
    add constraint jobs_attempts_check check (max_attempts >= 1 and attempt >= 0),
    add constraint jobs_timeout_check check (timeout_seconds >= 1),
    add constraint jobs_scheduled_at_check check (
        scheduled_at > '0001-01-02Z' and scheduled_at < '9999-12-30Z'
    ),
    add constraint jobs_args_check check (jsonb_typeof(args) = 'object'),
    add constraint jobs_metadata_check check (jsonb_typeof(metadata) = 'object'),
    add constraint jobs_errors_check check (jsonb_typeof(errors) = 'array'),
    add constraint jobs_tags_check check (array_position(tags, null) is null),
    add constraint jobs_pending_parents_check check (pending_parents >= 0);
