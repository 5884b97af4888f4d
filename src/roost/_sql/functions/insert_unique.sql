-- Insert encoded jobs with on_conflict, unique_while, unique_for or unique_by. Jobs without these go
-- through the other functions. job_ids has one id a job, in order: of the new job, or of the one that
-- was returned or replaced; null: the job was left out. If a job is refused or a parent doesn't exist,
-- job_ids is null and nothing is inserted or replaced.
create or replace function roost.insert_unique(
    content text, on_conflict text,
    out job_ids bigint[], out missing bigint[],
    out refused_key text, out refused_id bigint, out refusal text
)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    records jsonb := content;
    parents bigint[];
    done record;
begin
    select array_agg(distinct wanted.id order by wanted.id)
    into parents
    from jsonb_to_recordset(records) as r (depends_on bigint[])
    cross join lateral unnest(r.depends_on) as wanted (id);
    if parents is not null then
        missing := roost.lock_parents(parents);
        if cardinality(missing) > 0 then
            return;
        end if;
    end if;

    if jsonb_array_length(records) = 1 then
        -- A job that is refused alone has changed nothing. Many subtransactions slow a transaction down.
        select *
        into done
        from roost.insert_unique_each(records, on_conflict);
    else
        begin
            select *
            into done
            from roost.insert_unique_each(records, on_conflict);
            if done.refusal is not null then
                raise exception 'undo' using errcode = 'RS001';
            end if;
        exception
            when sqlstate 'RS001' then null;
        end;
    end if;
    if done.refusal is null then
        job_ids := done.job_ids;
    else
        refused_key := done.refused_key;
        refused_id := done.refused_id;
        refusal := done.refusal;
    end if;
end
$$;

revoke execute on function roost.insert_unique(text, text) from public;

comment on function roost.insert_unique is
    'Insert jobs that have options of unique keys; return an id for each, or why one was refused.';
