-- name: get_job
select
    id, queue, task, args::text, state, priority, attempt, max_attempts, scheduled_at, attempted_at,
    completed_at, cancelled_at, discarded_at, errors::text, unique_key, inserted_at, tags,
    timeout_seconds, cancel_requested, result::text, depends_on, metadata::text
from roost.jobs
where id = $1::bigint;

-- name: count_by_state
select state, count(*)
from roost.jobs
where queue = any ($1::text[])
group by state;
