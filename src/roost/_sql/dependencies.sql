-- name: bound_lock_waits
-- $1 milliseconds that later statements of the transaction wait for a lock. The role's
-- statement_timeout is switched off: to cancel many descendants may take long, and the caller has a
-- deadline of its own.
select set_config('lock_timeout', $1::text, true), set_config('statement_timeout', '0', true);

-- name: release_children
-- $1 parents that were completed. This transaction has locked their rows, so that no child can be added.
with gone as (
    delete from roost.dependencies
    where parent_id = any ($1::bigint[])
    returning child_id
),
waiting as (
    select child_id, count(*) as parents
    from gone
    group by child_id
),
held as materialized (
    select job.id, waiting.parents
    from waiting
    join roost.jobs as job on job.id = waiting.child_id
    where job.state = 'available'
        and job.pending_parents > 0
    -- Two parents may end at the same time: both lock their children in id order.
    order by job.id
    for update of job
),
released as (
    update roost.jobs as job
    set pending_parents = greatest(job.pending_parents - held.parents, 0),
        limited = exists (select from roost.limits where limits.task = job.task),
        limit_key = coalesce({{limit_key}}, job.limit_key)
    from held
    where job.id = held.id
    returning job.queue, job.pending_parents, job.scheduled_at, job.task, job.limit_key
),
notified as (
    select roost.announce(queue)
    from released
    where pending_parents = 0
        and scheduled_at <= now() + interval '1 minute'
    group by queue
    union all
    select roost.wake_key(task, limit_key, queue, min(scheduled_at))
    from released
    where pending_parents = 0
        and limit_key is not null
    group by task, limit_key, queue
)
select count(*)
from released
where (select count(*) from notified) >= 0;

-- name: cancel_descendants
-- $1 parents that were discarded or cancelled, with locked rows as above.
select roost.cancel_descendants($1::bigint[]);
