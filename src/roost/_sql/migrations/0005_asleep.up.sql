-- A notification costs its transaction a lock that all commits share: only who sleeps is notified.

alter table roost.workers add column asleep boolean not null default true;

comment on column roost.workers.asleep is
    'Whether the worker waits to be notified of jobs. One that is awake looks every few milliseconds.';

create function roost.announce(queue text)
returns void
language plpgsql
as $$
begin
    -- Called after the rows are written, so their transaction has its number, and with a snapshot of
    -- its own: a worker that falls asleep too late to be seen here waits for this very transaction
    -- (see the worker's module alertness). Only a snapshot that is kept can miss it altogether.
    if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted')
        or exists (
            select
            from roost.workers as worker
            where worker.asleep
                and worker.expires_at > now()
                and announce.queue = any (worker.queues)
        )
    then
        perform pg_notify('roost_jobs', announce.queue);
    end if;
end
$$;

comment on function roost.announce is
    'Tell the workers that sleep that a job of the queue can start, or will soon; sent at the commit.';

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
