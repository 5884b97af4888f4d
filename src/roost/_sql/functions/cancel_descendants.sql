-- What the failure of parents means for all that waits for them.
create or replace function roost.cancel_descendants(failed bigint[])
returns void
language plpgsql
-- Planned for each generation anew it takes three times as long.
set plan_cache_mode = force_generic_plan
set search_path = pg_catalog, pg_temp
as $$
begin
    -- A generation at a time: each statement sees the children that were enqueued until the one
    -- before had locked their parents.
    while cardinality(failed) > 0 loop
        with gone as (
            delete from roost.dependencies
            where parent_id = any (failed)
            returning parent_id, child_id
        ),
        child as materialized (
            select gone.child_id as id, min(gone.parent_id) as parent_id
            from gone
            group by gone.child_id
        ),
        reason as materialized (
            select jsonb_object_agg(child.id, child.parent_id) as parent_ids
            from child
        ),
        -- Not joins: those became hash joins over a scan of the table, in each generation.
        held as materialized (
            select waiting.id
            -- Two parents may end at once: both lock their children in one order.
            from (select child.id from child order by child.id) as child
            cross join lateral (
                select job.id
                from roost.jobs as job
                where job.id = child.id
                    and job.state || '' = 'available'
                    and job.pending_parents > 0
                limit 1
                for update of job
            ) as waiting
        ),
        cancelled as (
            update roost.jobs as job
            set state = 'cancelled',
                cancelled_at = now(),
                pending_parents = 0,
                errors = coalesce(job.errors, '[]') || (
                    select jsonb_build_array(jsonb_build_object(
                        'attempt', job.attempt,
                        'at', now(),
                        'error', 'ParentFailed: job ' || parent.id || ' was ' || parent.state,
                        'trace', ''
                    ))
                    from roost.jobs as parent
                    where parent.id
                        = ((select reason.parent_ids from reason) ->> job.id::text)::bigint
                )
            where job.id = any (array(select held.id from held))
            returning job.id, job.has_children, job.awaited
        ),
        notified as (
            select pg_notify('roost_finished', cancelled.id::text)
            from cancelled
            where cancelled.awaited
        )
        select array_agg(cancelled.id)
        into failed
        from cancelled
        where cancelled.has_children
            and (select count(*) from notified) >= 0;
    end loop;
end
$$;

comment on function roost.cancel_descendants is
    'Cancel all that waits for these parents, which failed and whose rows the transaction has locked, however far down.';
