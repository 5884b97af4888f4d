-- Part of insert_dependent: lock the parents, so that none ends before the transaction does. It waits
-- for parents that another transaction has inserted and not committed yet.
create or replace function roost.lock_parents(ids bigint[], out missing bigint[])
language plpgsql
as $$
declare
    locked bigint[];
begin
    for round in 1 .. 2 loop
        -- A job with children is settled together with them.
        with parent as materialized (
            select job.id
            from roost.jobs as job
            where job.id = any (ids)
                and job.state in ('available', 'executing', 'retryable')
                and not job.has_children
            order by job.id
            for no key update of job
        )
        update roost.jobs as job
        set has_children = true
        from parent
        where job.id = parent.id;

        -- A share lock: they can't be settled, but other transactions may add children.
        select array_agg(parent.id)
        into locked
        from (
            select job.id
            from roost.jobs as job
            where job.id = any (ids)
            order by job.id
            for share of job
        ) as parent;

        missing := array(
            select wanted.id
            from unnest(ids) as wanted (id)
            where wanted.id <> all (coalesce(locked, '{}'))
                and not exists (select from roost.jobs_archive as old where old.id = wanted.id)
            order by wanted.id
        );
        exit when cardinality(missing) = 0 or round = 2;

        -- Another transaction may have inserted a missing parent and not committed yet. Inserting the
        -- same id waits for that transaction. The subtransaction undoes the insert.
        begin
            insert into roost.jobs (id, task) overriding system value
            select unnest(missing), 'roost.probe'
            on conflict (id) do nothing;
            raise exception 'undo' using errcode = 'RS001';
        exception
            when sqlstate 'RS001' then null;
        end;
    end loop;

    -- A claim skips locked rows: let workers claim again when this transaction has ended.
    perform roost.announce(parent.queue)
    from (
        select distinct job.queue
        from roost.jobs as job
        where job.id = any (ids)
            and job.state in ('available', 'retryable')
            and job.pending_parents = 0
            and job.scheduled_at <= statement_timestamp()
    ) as parent;
end
$$;

comment on function roost.lock_parents is
    'Lock jobs that get children, and return the ids of which there is no job.';
