-- Return whether an executing job is prefetched and has certainly not started; see
-- release_unstarted.sql.
--
-- p_started: marks of four numbers each, by the number of the claim. The first mark that is not of an
-- earlier claim than the job's decides. A worker has several marks if some of its queues have slots of
-- their own: then jobs of different claims start at the same time.
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
        and coalesce(
            array[
                p_prefetch_no::bigint, p_priority::bigint,
                (date_part('epoch', p_scheduled_at) * 1000000::double precision)::bigint, p_id
            ] > case
                when cardinality(p_started) = 4 then p_started
                else (
                    select p_started[mark.first : mark.first + 3]
                    from generate_series(1, cardinality(p_started), 4) as mark (first)
                    where p_started[mark.first] >= p_prefetch_no
                    order by mark.first
                    limit 1
                )
            end,
            true
        )
$$;

comment on function roost.is_unstarted is
    'Return whether an executing job still waits in its worker for a slot. p_started: the worker''s prefetch_started.';
