-- Return the limit key of a job. p_passed: what the function of a client has returned, or the key that the
-- job has. A value that is missing or null gives an empty key, so jobs without it share one. A long
-- value is replaced by its hash.
--
-- Without a setting for the search_path, and one expression, so that it is inlined. So the schema of each
-- operator is written.
create or replace function roost.limit_key(p_limit_by text, p_args jsonb, p_passed text)
returns text
language sql
immutable
as $$
    select case
        when p_limit_by is null then p_passed
        when p_limit_by operator(pg_catalog.=) '()'::text then case
            when pg_catalog.length(p_passed) operator(pg_catalog.>) 200 then pg_catalog.md5(p_passed)
            else coalesce(p_passed, '')
        end
        when pg_catalog.length(
            p_args operator(pg_catalog.#>>) pg_catalog.string_to_array(p_limit_by, '.')
        ) operator(pg_catalog.>) 200 then pg_catalog.md5(
            p_args operator(pg_catalog.#>>) pg_catalog.string_to_array(p_limit_by, '.')
        )
        else coalesce(p_args operator(pg_catalog.#>>) pg_catalog.string_to_array(p_limit_by, '.'), '')
    end
$$;

comment on function roost.limit_key is
    'The limit key of a job: the value of the field of args that limit_by names.';
