-- Insert encoded jobs of which some have depends_on. Also used where the caller must know which job got
-- which id: new_ids has one id a job, in order, and null for a job that its unique key kept out. If
-- parents don't exist, missing has their ids and nothing is inserted.
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

    -- A statement of its own after the locks: it sees the parents as they are now.
    with new_job as materialized (
        select
            nextval('roost.jobs_id_seq') as id,
            {{new_job}}
        from jsonb_to_recordset(content::jsonb) as encoded (
            {{new_job_fields}},
            depends_on bigint[],
            unique_waiting boolean
        )
    ),
    parent as materialized (
        select distinct new_job.id as child_id, live.id, live.state
        from new_job
        cross join lateral unnest(new_job.depends_on) as wanted (id)
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
    outcome as (
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
            id, args, unique_key, limit_key, unique_waiting, depends_on,
            {{new_job_columns}},
            state, cancelled_at, pending_parents, errors
        ) overriding system value
        select
            new_job.id, new_job.args, new_job.unique_key,
            {{new_limit_key}},
            coalesce(new_job.unique_waiting, false), new_job.depends_on,
            {{new_job_values}},
            -- A child of a failed parent is inserted as cancelled.
            case when outcome.failed is null then 'available' else 'cancelled' end,
            case when outcome.failed is not null then statement_timestamp() end,
            case when outcome.failed is null then coalesce(outcome.pending, 0) else 0 end,
            case when outcome.failed is not null then jsonb_build_array(jsonb_build_object(
                'attempt', 0,
                'at', statement_timestamp(),
                'error', 'ParentFailed: job ' || outcome.failed_id || ' was ' || outcome.failed,
                'trace', ''
            )) end
        from new_job
        left join outcome on outcome.child_id = new_job.id
        where new_job.unique_waiting
            or outcome.failed is not null
            or {{key_is_unused}}
        -- Of several jobs with one unique key the first is kept.
        order by new_job.id
        {{unless_key_is_taken}}
        returning
            job.id, job.task, job.queue, job.state, job.scheduled_at, job.pending_parents,
            job.limited and job.state = 'available' and job.pending_parents = 0 as limited,
            job.limit_key
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
        union all
        {{wake_inserted}}
    )
    select array_agg(inserted.id order by new_job.id)
    into new_ids
    from new_job
    left join inserted on inserted.id = new_job.id
    where (select count(*) from notified) >= 0;
end
$$;

revoke execute on function roost.insert_dependent(text) from public;

comment on function roost.insert_dependent is
    'Insert jobs that may depend on others; return an id for each, or the ids of parents that do not exist.';
