-- A batch of jobs of one kind is inserted without asking for conflicts, row by row, as long as there
-- are none: to ask took a fifth of the time.
create or replace function roost.insert_homogeneous(content text, out new_ids bigint[], out new_keys text[])
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    batch jsonb := content;
    new_job record;
    asks boolean := false;
begin
    select
        {{new_job}}
    into new_job
    from jsonb_to_record(batch -> 'common') as encoded (
        {{new_job_fields}}
    );

    if jsonb_array_length(batch -> 'args') < 100 then
        -- Not worth a subtransaction, of which a transaction should not have too many.
        asks := true;
    else
        begin
            with inserted as (
                insert into roost.jobs as job (
                    args, unique_key,
                    {{new_job_columns}}
                )
                select
                    each.args, each.unique_key,
                    {{new_job_values}}
                from rows from (
                    jsonb_array_elements(batch -> 'args'),
                    jsonb_array_elements_text(batch -> 'keys')
                ) with ordinality as each (args, unique_key, place)
                order by each.place
                returning job.id, job.unique_key
            )
            select array_agg(id), array_agg(unique_key)
            into new_ids, new_keys
            from inserted;
        exception
            when unique_violation then
                -- All of it is undone; what was written till then was in vain.
                asks := true;
        end;
    end if;

    if asks then
        with inserted as (
            insert into roost.jobs as job (
                args, unique_key,
                {{new_job_columns}}
            )
            select
                each.args, each.unique_key,
                {{new_job_values}}
            from rows from (
                jsonb_array_elements(batch -> 'args'),
                jsonb_array_elements_text(batch -> 'keys')
            ) with ordinality as each (args, unique_key, place)
            order by each.place
            {{unless_key_is_taken}}
            returning job.id, job.unique_key
        )
        select array_agg(id), array_agg(unique_key)
        into new_ids, new_keys
        from inserted;
    end if;

    if new_ids is not null and new_job.due_at <= statement_timestamp() + interval '1 minute' then
        perform roost.announce(new_job.queue);
    end if;
end
$$;

revoke execute on function roost.insert_homogeneous(text) from public;

comment on function roost.insert_homogeneous is
    'Insert jobs that differ in args and unique keys only; return the ids and the keys of those that their keys did not keep out, or null.';
