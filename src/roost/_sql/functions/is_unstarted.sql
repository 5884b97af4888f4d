-- Return whether an executing job is prefetched and has certainly not started; see
-- release_unstarted.sql.
create or replace function roost.is_unstarted(
    p_prefetch_no integer, p_priority integer, p_scheduled_at timestamptz, p_id bigint,
    p_started bigint[]
)
returns boolean
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select p_prefetch_no is not null
        and (
            p_started is null
            or array[
                p_prefetch_no::bigint, p_priority::bigint,
                (date_part('epoch', p_scheduled_at) * 1000000::double precision)::bigint, p_id
            ] > p_started
        )
$$;

comment on function roost.is_unstarted is
    'Return whether an executing job still waits in its worker for a slot. p_started: the worker''s prefetch_started.';
