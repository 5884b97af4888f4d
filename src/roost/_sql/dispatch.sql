-- name: grant_credit
-- $1 worker id, $2 the offer's number, $3 the channel, $4 the tasks that the worker knows. Returns
-- nothing if a job was handed over before and is not accepted yet. Not flushed: an offer that a crash
-- of the server takes away is made again.
update roost.workers
set credit = $2::bigint,
    channel = $3::text,
    tasks = $4::text[]
where id = $1::bigint
    and dispatched_job_id is null
    and set_config('synchronous_commit', 'off', true) is not null
returning id;

-- name: revoke_credit
-- Waits for whoever is taking it: from here on it is either withdrawn or taken, and committed.
update roost.workers
set credit = null,
    dispatched_job_id = null
where id = $1::bigint
    and (credit is not null or dispatched_job_id is not null)
returning id;

-- name: accept_dispatched
-- $1 worker id, $2 the number of its next offer or null. Always one row: the offer as it was, what was
-- handed over, and that job if this worker has its lease. What is accepted here no other worker can
-- take over. Not flushed: if a crash of the server undoes it, the listening connection is gone too, and
-- without that no worker takes the job over.
with given as materialized (
    select worker.dispatched_job_id
    from roost.workers as worker
    where worker.id = $1::bigint
        and worker.dispatched_job_id is not null
    for no key update
),
accepted as (
    update roost.workers as worker
    set dispatched_job_id = null,
        credit = $2::bigint
    from given
    where worker.id = $1::bigint
        and set_config('synchronous_commit', 'off', true) is not null
    returning given.dispatched_job_id
)
select
    (select worker.credit from roost.workers as worker where worker.id = $1::bigint),
    accepted.dispatched_job_id,
    job.*
from (values (1)) as one (row)
left join accepted on true
left join lateral (
    select
        {{claimed_columns}}
    from roost.jobs as job
    where job.id = accepted.dispatched_job_id
        and job.state = 'executing'
        and job.worker_id = $1::bigint
        and job.lease_no = 1
    limit 1
) as job on true;

-- name: take_unaccepted
-- $1 worker id, $2 its queues, $3 its tasks, $4 the most to take, $5 seconds. Jobs that were handed to
-- another worker at least so long ago, and that it has not accepted: its event loop stands still.
-- Nothing is waited for: what is locked is passed over.
with unaccepted as materialized (
    select job.id, job.worker_id
    from roost.jobs as job
    where job.id = any (array(
            select worker.dispatched_job_id
            from roost.workers as worker
            where worker.dispatched_job_id is not null
                and worker.id <> $1::bigint
                -- After a crash of the server it may have been accepted; see accept_dispatched.
                and not pg_try_advisory_xact_lock_shared(
                    hashtextextended(worker.channel, 0::bigint)
                )
        ))
        and job.state = 'executing'
        and job.lease_no = 1
        and job.attempted_at
            <= statement_timestamp() - make_interval(secs => $5::double precision)
        and job.queue = any ($2::text[])
        and job.task = any ($3::text[])
        and not exists (
            select
            from roost.queues as queue
            where queue.name = job.queue
                and queue.paused_at is not null
        )
    order by job.id
    limit $4::integer
    for update of job skip locked
),
alive as materialized (
    select worker.id
    from roost.workers as worker
    where worker.id = $1::bigint
    for key share
),
freed as materialized (
    select worker.id, worker.dispatched_job_id
    from unaccepted
    join roost.workers as worker
        on worker.id = unaccepted.worker_id
        and worker.dispatched_job_id = unaccepted.id
    where exists (select from alive)
    for no key update of worker skip locked
),
cleared as (
    update roost.workers as worker
    set dispatched_job_id = null
    from freed
    where worker.id = freed.id
),
taken as (
    update roost.jobs as job
    set lease_no = job.lease_no + 1,
        worker_id = $1::bigint,
        attempted_at = statement_timestamp()
    where job.id = any (array(select freed.dispatched_job_id from freed))
    returning
        {{claimed_columns}}
)
select *
from taken
order by taken.priority, taken.scheduled_at, taken.id;
