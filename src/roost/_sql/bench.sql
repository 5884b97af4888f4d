-- name: newest_id
-- An id that no job exceeds which was enqueued before.
select coalesce(max(id), 0)
from roost.jobs;

-- name: remove_jobs
-- $1 lowest and $2 highest id, $3 queue. Delete the jobs of a measurement, whatever their state: its worker
-- has ended, and no other one serves the queue. No job depends on them.
delete from roost.jobs as job
where job.id between $1::bigint and $2::bigint
    and job.queue = $3::text;

-- name: remove_workers
-- $1 queue. A worker that was cancelled may have had no time to remove its row.
delete from roost.workers
where queues = array[$1::text];

-- name: remove_tasks
-- $1 names. The worker of a measurement has published them.
delete from roost.tasks
where name = any ($1::text[]);

-- name: remove_rollups
-- $1 queue. Delete what the worker of a measurement has counted, which throughput would show.
delete from roost.rollups as rollup
where rollup.queue = $1::text
    and rollup.minute >= now() - interval '1 hour';
