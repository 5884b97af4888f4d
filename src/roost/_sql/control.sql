-- name: cancel_jobs
-- $1 ids. Cancel waiting jobs, and request the cancel of executing ones. The rows are locked first and
-- read after that, so that a claim at the same moment is not missed.
with target as materialized (
    select job.id
    from roost.jobs as job
    where job.id = any ($1::bigint[])
    order by job.id
    for update of job
),
changed as (
    update roost.jobs as job
    set state = case when job.state = 'executing' then job.state else 'cancelled' end,
        cancelled_at = case when job.state = 'executing' then null else now() end,
        cancel_requested = true,
        pending_parents = 0
    from target
    where job.id = target.id
        and job.state in ('available', 'executing', 'retryable')
    returning job.id, job.state, job.lease_no, job.has_children, job.awaited
),
notified as (
    select pg_notify('roost_cancel', id::text || ':' || lease_no::text)
    from changed
    where state = 'executing'
    union all
    select pg_notify('roost_finished', id::text)
    from changed
    where awaited
        and state = 'cancelled'
    union all
    select roost.report_cancelled(pg_catalog.array_agg(id))
    from changed
    where state = 'cancelled'
)
select changed.id, changed.state, changed.has_children
from changed
where (select count(*) from notified) >= 0
order by changed.id;

-- name: states_of
-- $1 ids of live or archived jobs.
select id, state
from roost.jobs
where id = any ($1::bigint[])
union all
select id, state
from roost.jobs_archive
where id = any ($1::bigint[]);

-- name: cancel_requests_of
-- $1 worker id. For a worker that may have missed a notification.
select id, lease_no
from roost.jobs
where worker_id = $1::bigint
    and state = 'executing'
    and cancel_requested;

-- name: revive_jobs
-- $1 ids. Make finished jobs and jobs that wait for a retry available now. `errors` are kept. A job
-- whose unique key another active job has stays unchanged.
--
-- A cancelled job waits again for those of its parents that have not ended. It stays unchanged while
-- one of them is discarded or cancelled. The parents are locked, so that none ends meanwhile. A job that
-- ended in another way had all its parents completed.
with target as materialized (
    select
        job.id,
        case when job.state = 'cancelled' then job.depends_on end as depends_on
    from roost.jobs as job
    where job.id = any ($1::bigint[])
        and job.state in ('completed', 'discarded', 'cancelled', 'retryable')
        and not exists (
            select
            from roost.jobs as other
            where {{keeps_key_from_job}}
        )
    order by job.id
    for update of job
),
parent as materialized (
    select job.id, job.state
    from roost.jobs as job
    where job.id = any (array(select pg_catalog.unnest(target.depends_on) from target))
    order by job.id
    for no key update of job
),
waiting as materialized (
    select distinct target.id as child_id, parent.id as parent_id
    from target
    cross join lateral pg_catalog.unnest(target.depends_on) as wanted (id)
    join parent on parent.id = wanted.id
    where parent.state in ('available', 'executing', 'retryable')
),
held_back as materialized (
    select target.id
    from target
    cross join lateral pg_catalog.unnest(target.depends_on) as wanted (id)
    where exists (
            select
            from parent
            where parent.id = wanted.id
                and parent.state in ('discarded', 'cancelled')
        )
        or exists (
            select
            from roost.jobs_archive as archived
            where archived.id = wanted.id
                and archived.state in ('discarded', 'cancelled')
        )
),
flagged as (
    update roost.jobs as job
    set has_children = true
    where job.id = any (array(
            select waiting.parent_id
            from waiting
            where not exists (select from held_back where held_back.id = waiting.child_id)
        ))
        and not job.has_children
),
linked as (
    insert into roost.dependencies (parent_id, child_id)
    select waiting.parent_id, waiting.child_id
    from waiting
    where not exists (select from held_back where held_back.id = waiting.child_id)
    on conflict do nothing
),
revived as (
    update roost.jobs as job
    set state = 'available',
        scheduled_at = now(),
        completed_at = null,
        cancelled_at = null,
        discarded_at = null,
        cancel_requested = false,
        pending_parents = (select count(*) from waiting where waiting.child_id = job.id),
        limited = exists (select from roost.limits where limits.task = job.task),
        limit_key = coalesce({{limit_key}}, job.limit_key),
        result = null,
        -- At least one more attempt.
        max_attempts = greatest(job.max_attempts, least(job.attempt, 2147483646) + 1)
    from target
    where job.id = target.id
        and not exists (select from held_back where held_back.id = job.id)
    returning job.id, job.queue, job.pending_parents, job.task, job.limit_key
),
notified as (
    select roost.announce(queue)
    from revived
    where pending_parents = 0
    group by queue
    union all
    select roost.wake_key(task, limit_key, queue)
    from revived
    where pending_parents = 0
        and limit_key is not null
    group by task, limit_key, queue
)
select id
from revived
where (select count(*) from notified) >= 0
order by id;

-- name: failed_parents
-- $1 id of a cancelled job. Its discarded and cancelled parents, live or archived.
select parent.id, parent.state
from roost.jobs as job
join lateral (
    select live.id, live.state
    from roost.jobs as live
    where live.id = any (job.depends_on)
    union all
    select archived.id, archived.state
    from roost.jobs_archive as archived
    where archived.id = any (job.depends_on)
) as parent on true
where job.id = $1::bigint
    and job.state = 'cancelled'
    and parent.state in ('discarded', 'cancelled')
order by parent.id;

-- name: key_holder
-- $1 id. The other active jobs that have the same unique key.
select other.id, other.unique_key
from roost.jobs as job
join roost.jobs as other
    on {{keeps_key_from_job}}
where job.id = $1::bigint
order by case when other.unique_waiting and other.lease_no > 0 then other.id else 0 end;

-- name: unarchive_jobs
-- $1 ids. Move archived jobs back into the live table, unchanged.
with moved as (
    delete from roost.jobs_archive
    where id = any ($1::bigint[])
    returning *
)
insert into roost.jobs (
    {{kept_columns}}
) overriding system value
select
    {{kept_columns}}
from moved
returning id;

-- name: discarded_ids
-- $1 queue or null for all, $2 task or null for all, $3 only ids above this, $4 the most.
select id, unique_key
from roost.jobs
where state = 'discarded'
    and id > $3::bigint
    and ($1::text is null or queue = $1::text)
    and ($2::text is null or task = $2::text)
order by id
limit $4::integer;

-- name: pause_queue
with paused as (
    insert into roost.queues (name, paused_at)
    values ($1::text, now())
    on conflict (name) do update
    set paused_at = coalesce(roost.queues.paused_at, now())
    returning name
)
select pg_notify('roost_pause', name)
from paused;

-- name: unconfirmed_workers
-- $1 queue. The living workers that may still start jobs of a paused queue, and the seconds since their
-- last heartbeat. Returns nothing when the queue is not paused any more.
select worker.name, extract(epoch from now() - worker.heartbeat_at)::double precision
from roost.workers as worker
where worker.expires_at > now()
    and $1::text = any (worker.queues)
    and $1::text <> all (worker.paused)
    and exists (
        select
        from roost.queues as queue
        where queue.name = $1::text
            and queue.paused_at is not null
    )
order by worker.id;

-- name: paused_queues
-- $1 queues. Returns those that are paused.
select name
from roost.queues
where name = any ($1::text[])
    and paused_at is not null;

-- name: confirm_pauses
-- $1 worker id, $2 the paused queues of which it starts no jobs.
update roost.workers
set paused = $2::text[]
where id = $1::bigint
returning id;

-- name: resume_queue
with resumed as (
    update roost.queues
    set paused_at = null
    where name = $1::text
        and paused_at is not null
    returning name
)
select roost.announce(name), pg_notify('roost_pause', name)
from resumed;

-- name: database_time
select pg_catalog.clock_timestamp();
