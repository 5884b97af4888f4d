-- name: update_metadata
-- $1 ids, $2 worker ids, $3 lease numbers, $4 a JSON object: for each id:worker:lease the top-level keys
-- to set, with their values. Returns the ids that were written: the lease held, and the row was not
-- locked.
with verdict as (
    select *
    from unnest($1::bigint[], $2::bigint[], $3::integer[]) as v (id, worker_id, lease_no)
),
-- Locked rows are skipped: an enqueue of a child locks its parent until the user's transaction ends.
held as materialized (
    select verdict.id
    from verdict
    cross join lateral (
        select
        from roost.jobs as job
        where {{holds_lease}}
        limit 1
        for no key update of job skip locked
    ) as job
)
update roost.jobs as job
set metadata = coalesce(job.metadata, '{}')
    || (
        (select $4::text::jsonb)
            -> pg_catalog.concat_ws(':', job.id, job.worker_id, job.lease_no)
    )
-- Not a join: the planner may make a hash join over a scan of the table.
where job.id = any (array(select held.id from held))
returning job.id;
