-- name: grant_credit
-- $1 worker id, $2 the number of the credit, $3 the worker's channel, $4 the tasks that it knows, $5 the
-- queues that have a free slot; null: all that it serves.
-- Returns nothing while a dispatched job is not accepted yet. Not flushed: if a crash of the server
-- loses the credit, the worker grants another one.
update roost.workers
set credit = $2::bigint,
    channel = $3::text,
    tasks = $4::text[],
    credit_queues = $5::text[]
where id = $1::bigint
    and dispatched_job_id is null
    and set_config('synchronous_commit', 'off', true) is not null
returning id;

-- name: revoke_credit
-- $1 worker id. Waits for a producer that is consuming the credit: afterwards it is either revoked, or
-- consumed and committed. Also refuses a dispatched job that is not accepted yet.
update roost.workers
set credit = null,
    dispatched_job_id = null
where id = $1::bigint
    and (credit is not null or dispatched_job_id is not null)
returning id;

-- name: accept_dispatched
-- $1 worker id, $2 the number of its next credit or null. Always returns one row: the credit before, the
-- id of the dispatched job, and that job if this worker still has its lease. No other worker can take
-- the job over after that. Not flushed: if a crash of the server undoes it, the worker's listening
-- connection is gone too, and then no other worker takes the job over.
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
-- $1 worker id, $2 its queues, $3 its tasks, $4 the most to take, $5 seconds. Take over jobs that were
-- dispatched to other workers at least that long ago and not accepted: the event loops there are
-- blocked. Locked rows are skipped.
with unaccepted as materialized (
    select job.id, job.worker_id
    from roost.jobs as job
    where job.id = any (array(
            select worker.dispatched_job_id
            from roost.workers as worker
            where worker.dispatched_job_id is not null
                and worker.id <> $1::bigint
                -- Without its listening connection the worker may have accepted the job before a
                -- crash of the server; see accept_dispatched.
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
