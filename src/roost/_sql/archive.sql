-- name: archive_jobs
-- $1 seconds since the job ended, $2 the most.
with old as materialized (
    select job.id
    from roost.jobs as job
    where job.state in ('completed', 'discarded', 'cancelled')
        and greatest(job.completed_at, job.cancelled_at, job.discarded_at)
            < now() - make_interval(secs => $1::double precision)
    order by greatest(job.completed_at, job.cancelled_at, job.discarded_at)
    limit $2::integer
    for update of job skip locked
),
moved as (
    delete from roost.jobs as job
    using old
    where job.id = old.id
    returning job.*
)
insert into roost.jobs_archive (
    {{kept_columns}},
    pending_parents, cancel_requested, has_children
)
select
    {{kept_columns}},
    pending_parents, cancel_requested, has_children
from moved
returning id;

-- name: forget_results
-- $1 seconds since the job completed, $2 the most.
with old as materialized (
    select job.id
    from roost.jobs as job
    where job.state = 'completed'
        and job.result is not null
        and job.completed_at < now() - make_interval(secs => $1::double precision)
    order by job.completed_at
    limit $2::integer
    for update of job skip locked
)
update roost.jobs as job
set result = null
from old
where job.id = old.id
returning job.id;

-- name: forget_archived_results
-- The same in the archive.
with old as materialized (
    select job.id
    from roost.jobs_archive as job
    where job.result is not null
        and job.completed_at < now() - make_interval(secs => $1::double precision)
    limit $2::integer
    for update of job skip locked
)
update roost.jobs_archive as job
set result = null
from old
where job.id = old.id
returning job.id;
