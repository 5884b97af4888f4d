-- name: get_job
-- Live or archived.
select
    id, queue, task, args::text, state, priority, attempt, max_attempts, scheduled_at, attempted_at,
    completed_at, cancelled_at, discarded_at, errors::text, unique_key, inserted_at, tags,
    timeout_seconds, cancel_requested, result::text, depends_on, metadata::text
from roost.jobs
where id = $1::bigint
union all
select
    id, queue, task, args::text, state, priority, attempt, max_attempts, scheduled_at, attempted_at,
    completed_at, cancelled_at, discarded_at, errors::text, unique_key, inserted_at, tags,
    timeout_seconds, cancel_requested, result::text, depends_on, metadata::text
from roost.jobs_archive
where id = $1::bigint;

-- name: count_by_state
select state, count(*)
from roost.jobs
where queue = any ($1::text[])
group by state;

-- name: list_queues
-- Each part is answered by an index that holds no finished job.
with part (queue, kind, jobs) as (
    select queue, case when scheduled_at > now() then 'scheduled' else state end, count(*)
    from roost.jobs
    where state in ('available', 'retryable')
        and pending_parents = 0
        and not limited
    group by 1, 2
    union all
    select queue, case when scheduled_at > now() then 'scheduled' else state end, count(*)
    from roost.jobs
    where state in ('available', 'retryable')
        and pending_parents = 0
        and limited
    group by 1, 2
    union all
    select queue, 'executing', count(*)
    from roost.jobs
    where state = 'executing'
    group by 1
    union all
    select queue, 'blocked', count(*)
    from roost.jobs
    where id = any (array(select distinct child_id from roost.dependencies))
        and state = 'available'
        and pending_parents > 0
    group by 1
    union all
    select name, 'known', 0
    from roost.queues
    union all
    select served.queue, 'known', 0
    from roost.workers as worker
    cross join lateral unnest(worker.queues) as served (queue)
)
select
    part.queue,
    queues.paused_at,
    coalesce(sum(jobs) filter (where kind = 'available'), 0)::bigint,
    coalesce(sum(jobs) filter (where kind = 'scheduled'), 0)::bigint,
    coalesce(sum(jobs) filter (where kind = 'retryable'), 0)::bigint,
    coalesce(sum(jobs) filter (where kind = 'blocked'), 0)::bigint,
    coalesce(sum(jobs) filter (where kind = 'executing'), 0)::bigint
from part
left join roost.queues as queues on queues.name = part.queue
group by part.queue, queues.paused_at
order by part.queue;

-- name: list_workers
select
    worker.id, worker.name, worker.queues, worker.concurrency, worker.started_at,
    worker.heartbeat_at, worker.expires_at, executing.jobs
from roost.workers as worker
cross join lateral (
    select count(*) as jobs
    from roost.jobs as job
    where job.state = 'executing'
        and job.worker_id = worker.id
) as executing
order by worker.id;

-- name: await_job
-- From here on whoever ends the job announces it. A statement of its own before `outcome_of`, which
-- then sees an end that came first.
update roost.jobs
set awaited = true
where id = $1::bigint
    and not awaited
    and state in ('available', 'executing', 'retryable');

-- name: outcome_of
-- Live or archived.
select id, state, result::text, errors::text
from roost.jobs
where id = $1::bigint
union all
select id, state, result::text, errors::text
from roost.jobs_archive
where id = $1::bigint;
