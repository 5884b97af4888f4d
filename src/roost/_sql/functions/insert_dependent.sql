-- Insert the jobs of a JSON array of records, of which some have depends_on; also for callers that must
-- know which id is whose: one id a record, in order, null for one that was left out. If a parent does not
-- exist, its id is in missing and nothing is inserted.
create or replace function roost.insert_dependent(
    content text, out new_ids bigint[], out missing bigint[]
)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    parents bigint[];
begin
    select array_agg(distinct wanted.id order by wanted.id)
    into parents
    from jsonb_to_recordset(content::jsonb) as r (depends_on bigint[])
    cross join lateral unnest(r.depends_on) as wanted (id);
    if parents is not null then
        missing := roost.lock_parents(parents);
        if cardinality(missing) > 0 then
            return;
        end if;
    end if;

    -- A statement of its own after the lock: it sees the parents as they are now.
    with record as materialized (
        select
            nextval('roost.jobs_id_seq') as id,
            r.*
        from jsonb_to_recordset(content::jsonb) as r (
            queue text,
            task text,
            args jsonb,
            priority integer,
            max_attempts integer,
            scheduled_at timestamptz,
            unique_key text,
            tags text[],
            timeout_seconds integer,
            metadata jsonb,
            depends_on bigint[]
        )
    ),
    parent as materialized (
        select distinct record.id as child_id, live.id, live.state
        from record
        cross join lateral unnest(record.depends_on) as wanted (id)
        join lateral (
            select job.id, job.state
            from roost.jobs as job
            where job.id = wanted.id
            union all
            select job.id, job.state
            from roost.jobs_archive as job
            where job.id = wanted.id
        ) as live on true
        where live.state <> 'completed'
    ),
    family as (
        select
            parent.child_id,
            count(*) as pending,
            min(parent.id) filter (where parent.state in ('discarded', 'cancelled')) as failed_id,
            (
                array_agg(parent.state order by parent.id)
                filter (where parent.state in ('discarded', 'cancelled'))
            )[1] as failed
        from parent
        group by parent.child_id
    ),
    inserted as (
        insert into roost.jobs as job (
            id, queue, task, args, priority, max_attempts, scheduled_at, inserted_at,
            unique_key, tags, timeout_seconds, metadata, limited, depends_on,
            state, cancelled_at, pending_parents, errors
        ) overriding system value
        select
            record.id, record.queue, record.task, record.args, record.priority,
            record.max_attempts,
            coalesce(record.scheduled_at, statement_timestamp()), statement_timestamp(),
            record.unique_key, record.tags, record.timeout_seconds, record.metadata,
            exists (select from roost.limits where limits.task = record.task),
            record.depends_on,
            -- A parent that has failed already has the same consequence as one that fails later.
            case when family.failed is null then 'available' else 'cancelled' end,
            case when family.failed is not null then statement_timestamp() end,
            case when family.failed is null then coalesce(family.pending, 0) else 0 end,
            case when family.failed is not null then jsonb_build_array(jsonb_build_object(
                'attempt', 0,
                'at', statement_timestamp(),
                'error', 'ParentFailed: job ' || family.failed_id || ' was ' || family.failed,
                'trace', ''
            )) end
        from record
        left join family on family.child_id = record.id
        -- Of two jobs with one unique key the first is kept.
        order by record.id
        on conflict (unique_key)
            where unique_key is not null and state in ('available', 'executing', 'retryable')
            do nothing
        returning job.id, job.queue, job.state, job.scheduled_at, job.pending_parents
    ),
    depending as (
        insert into roost.dependencies (parent_id, child_id)
        select parent.id, inserted.id
        from inserted
        join parent on parent.child_id = inserted.id
        where inserted.pending_parents > 0
    ),
    notified as (
        select roost.announce(inserted.queue)
        from inserted
        where inserted.state = 'available'
            and inserted.pending_parents = 0
            and inserted.scheduled_at <= statement_timestamp() + interval '1 minute'
        group by inserted.queue
    )
    select array_agg(inserted.id order by record.id)
    into new_ids
    from record
    left join inserted on inserted.id = record.id
    where (select count(*) from notified) >= 0;
end
$$;

revoke execute on function roost.insert_dependent(text) from public;

comment on function roost.insert_dependent is
    'Insert jobs that may depend on others and return an id for each, or the ids of parents that do not exist.';
