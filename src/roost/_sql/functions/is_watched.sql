-- Whether a client listens for events. Each one holds a shared advisory lock while its connection is open.
-- To try the lock would be cheaper, but two that try it at once would take each other for a listener.
create or replace function roost.is_watched()
returns boolean
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    select exists (
        select
        from pg_locks as held
        where held.locktype = 'advisory'
            and held.objsubid = 1
            and held.mode = 'ShareLock'
            and held.granted
            and held.database = (select oid from pg_database where datname = current_database())
            and (held.classid::bigint << 32) | held.objid::bigint
                = hashtextextended('roost_events', 0::bigint)
    )
$$;

comment on function roost.is_watched is
    'Say whether a client listens for events of jobs. Workers and cancels send them only then.';
