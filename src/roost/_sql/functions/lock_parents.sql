-- Part of insert_dependent: keep the parents from ending until the transaction does, those included
-- that only another transaction can see yet.
create or replace function roost.lock_parents(ids bigint[], out missing bigint[])
language plpgsql
as $$
declare
    locked bigint[];
begin
    for round in 1 .. 2 loop
        -- From now on these are settled together with their children.
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

        -- They can't be settled any more, only read and given more children.
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

        -- Another transaction may have inserted them and not committed yet: the primary key makes
        -- this wait for its end. Whatever is inserted here is undone.
        begin
            insert into roost.jobs (id, task) overriding system value
            select unnest(missing), 'roost.probe'
            on conflict (id) do nothing;
            raise exception 'undo' using errcode = 'RS001';
        exception
            when sqlstate 'RS001' then null;
        end;
    end loop;

    -- A claim passes over a row that is locked: at the end of the transaction it is to look again.
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
    'Lock jobs that are to get children and return the ids of which there is no job.';
