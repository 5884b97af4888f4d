-- Part of unique_key_by: 1.0 and 1 are equal, and their texts differ.
create or replace function roost.trim_numbers(value jsonb)
returns jsonb
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Only a number with a zero at the end of its fraction is written in two ways.
    if value::text !~ '\.[0-9]*0' then
        return value;
    end if;
    return case jsonb_typeof(value)
        when 'object' then (
            select jsonb_object_agg(field.key, roost.trim_numbers(field.value))
            from jsonb_each(value) as field
        )
        when 'array' then (
            select jsonb_agg(roost.trim_numbers(item.value) order by item.place)
            from jsonb_array_elements(value) with ordinality as item (value, place)
        )
        when 'number' then to_jsonb(trim_scale(value::numeric))
        else value
    end;
end
$$;

comment on function roost.trim_numbers is
    'Return the value with numbers that are equal written in one way.';
