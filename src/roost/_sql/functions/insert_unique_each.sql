-- Part of insert_unique: insert the jobs one by one, in the order of their keys, so that two calls with
-- the same keys lock them in the same order. The ids have the order of the jobs.
create or replace function roost.insert_unique_each(
    p_content jsonb, p_on_conflict text,
    out job_ids bigint[], out refused_key text, out refused_id bigint, out refusal text
)
language plpgsql
as $$
declare
    job record;
    done record;
    due_queues text[] := '{}';
begin
    job_ids := array_fill(null::bigint, array[jsonb_array_length(p_content)]);
    for job in
        with keyed as materialized (
            select
                each.record,
                each.place::integer as place,
                nextval('roost.jobs_id_seq') as id,
                case
                    when each.record ? 'unique_by' then roost.unique_key_by(
                        array(select jsonb_array_elements_text(each.record -> 'unique_by')),
                        each.record ->> 'task', each.record ->> 'queue', each.record -> 'args'
                    )
                    else each.record ->> 'unique_key'
                end as unique_key
            from jsonb_array_elements(p_content) with ordinality as each (record, place)
        )
        select *
        from keyed
        order by keyed.unique_key collate "C", keyed.place
    loop
        select *
        into done
        from roost.insert_unique_one(job.record, job.id, job.unique_key, p_on_conflict);
        if done.refusal is null then
            job_ids[job.place] := done.result_id;
        elsif p_on_conflict <> 'skip' then
            refused_key := job.unique_key;
            refused_id := done.result_id;
            refusal := done.refusal;
            return;
        end if;
        if done.due_queue is not null and done.due_queue <> all (due_queues) then
            due_queues := due_queues || done.due_queue;
        end if;
    end loop;
    perform roost.announce(due.queue)
    from unnest(due_queues) as due (queue);
end
$$;

comment on function roost.insert_unique_each is
    'Insert the jobs of insert_unique in the order of their keys, up to the first one that is refused.';
