-- name: make_offer
-- $1 worker id, $2 the offer's number, $3 the channel, $4 the tasks that the worker knows.
update roost.workers
set offer = $2::bigint,
    channel = $3::text,
    tasks = $4::text[]
where id = $1::bigint;

-- name: withdraw_offer
-- Waits for whoever is taking it: from here on it is either withdrawn or taken, and committed.
update roost.workers
set offer = null
where id = $1::bigint
    and offer is not null
returning id;

-- name: find_handed
-- $1 worker id, $2 the ids that it knows. What was handed to it, and it has not heard of.
select
    job.id, job.queue, job.task, job.args::text, job.priority, job.max_attempts,
    (date_part('epoch', job.scheduled_at) * 1000000)::bigint,
    (date_part('epoch', job.attempted_at) * 1000000)::bigint,
    job.unique_key, job.tags, job.timeout_seconds, job.metadata::text, job.cancel_requested
from roost.jobs as job
where job.state = 'executing'
    and job.worker_id = $1::bigint
    -- Leased when it was inserted.
    and job.lease_no = 1
    and job.attempted_at = job.inserted_at
    and job.id <> all ($2::bigint[]);
