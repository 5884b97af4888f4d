-- Whether a job that was claimed to wait for a slot has certainly not started; see
-- give_back_unstarted.sql.
create or replace function roost.is_unstarted(
    prefetch_no integer, priority integer, scheduled_at timestamptz, id bigint, started bigint[]
)
returns boolean
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select prefetch_no is not null
        and (
            started is null
            or array[
                prefetch_no::bigint, priority::bigint,
                (date_part('epoch', scheduled_at) * 1000000::double precision)::bigint, id
            ] > started
        )
$$;

comment on function roost.is_unstarted is
    'Whether an executing job waits in its worker for a slot; started: how far that worker has come.';
