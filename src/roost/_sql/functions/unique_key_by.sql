-- Make the unique key of a job from what unique_by names. In the database, so that all producers get the
-- same key: jsonb has one order of fields, and numbers are trimmed. The task always counts.
create or replace function roost.unique_key_by(
    p_unique_by text[], p_task text, p_queue text, p_args jsonb
)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    part text;
    field text;
    parts jsonb := jsonb_build_object('task', p_task);
begin
    if cardinality(p_unique_by) = 0 then
        raise exception 'unique_by must name something' using errcode = 'check_violation';
    end if;
    foreach part in array p_unique_by loop
        field := substr(part, 6);
        if part = 'args' then
            parts := parts || jsonb_build_object(part, p_args);
        elsif part = 'queue' then
            parts := parts || jsonb_build_object(part, p_queue);
        elsif starts_with(part, 'args.') and p_args ? field then
            parts := parts || jsonb_build_object(part, p_args -> field);
        elsif starts_with(part, 'args.') then
            raise exception 'unique_by names %, and args have no field %', part, field
                using errcode = 'check_violation';
        elsif part is distinct from 'task' then
            raise exception 'unique_by takes args, args.<field>, queue and task, not %', part
                using errcode = 'check_violation';
        end if;
    end loop;
    return 'unique_by:' || encode(
        sha256(convert_to(roost.trim_numbers(parts)::text, 'UTF8')), 'hex'
    );
end
$$;

comment on function roost.unique_key_by is
    'Return the unique key of a job: a hash of its task and of the parts that unique_by names.';
