-- name: bound_lock_waits
-- $1 milliseconds, for the rest of the transaction: a child that somebody holds is not waited for.
-- What may take long and has to be done, such as to cancel a large family, is bounded by its caller
-- and not by the role's statement_timeout.
select set_config('lock_timeout', $1::text, true), set_config('statement_timeout', '0', true);

-- name: release_children
-- $1 parents that were completed, whose rows this transaction has locked: no child can be added to
-- them any more.
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
    -- Two parents may end at once: both lock their children in one order.
    order by job.id
    for update of job
),
released as (
    update roost.jobs as job
    set pending_parents = greatest(job.pending_parents - held.parents, 0),
        limited = exists (select from roost.limits where limits.task = job.task)
    from held
    where job.id = held.id
    returning job.queue, job.pending_parents, job.scheduled_at
),
notified as (
    select roost.announce(queue)
    from released
    where pending_parents = 0
        and scheduled_at <= now() + interval '1 minute'
    group by queue
)
select count(*)
from released
where (select count(*) from notified) >= 0;

-- name: cancel_descendants
-- $1 parents that were discarded or cancelled, locked as above.
select roost.cancel_descendants($1::bigint[]);
