-- name: bound
-- $1 milliseconds that each statement of this transaction may take, $2 milliseconds to wait for a lock.
select
    set_config('statement_timeout', $1::text, true),
    set_config('lock_timeout', $2::text, true);

-- name: probe
-- Outside a transaction. A pooler may give each its own server process.
select pg_backend_pid(), extract(epoch from clock_timestamp())::double precision;

-- name: notify
-- $1 a payload, for the doctor's own listening connection.
select pg_notify('roost_doctor', $1::text);

-- name: server
select
    current_user::text,
    current_database()::text,
    current_setting('server_version'),
    pg_is_in_recovery(),
    current_setting('server_encoding'),
    pg_notification_queue_usage();

-- name: settings
-- $1 names. With the values that a new session of this role gets, not those of this transaction.
select name, reset_val
from pg_settings
where name = any ($1::text[]);

-- name: connections
-- Backends and the limits: of the server without the reserved ones, of the database, of the role. -1: none.
select
    (select pg_catalog.sum(numbackends) from pg_stat_database)::bigint,
    (
        current_setting('max_connections')::integer
        - current_setting('superuser_reserved_connections')::integer
        - coalesce(current_setting('reserved_connections', true), '0')::integer
    )::bigint,
    (
        select numbackends
        from pg_stat_database
        where datname = current_database()
    )::bigint,
    (
        select datconnlimit
        from pg_database
        where datname = current_database()
    )::bigint,
    (
        select pg_catalog.count(*)
        from pg_stat_activity
        where usename = current_user
    ),
    (
        select rolconnlimit
        from pg_roles
        where rolname = current_user
    )::bigint;

-- name: relations
-- The tables and indexes of the schema. n_dead_tup is an estimate; relpages and reltuples are those of the
-- last vacuum or analyze. Postgres keeps an option as it was written, such as off, no or 0 for false.
select
    relation.relname::text,
    relation.relkind::text,
    coalesce(index.indisvalid and index.indisready, true),
    pg_relation_size(relation.oid),
    greatest(relation.reltuples, 0)::double precision,
    relation.relpages::bigint,
    coalesce(statistics.n_live_tup, 0),
    coalesce(statistics.n_dead_tup, 0),
    extract(
        epoch from now() - greatest(statistics.last_vacuum, statistics.last_autovacuum)
    )::double precision,
    coalesce(
        (
            select not option_value::boolean
            from pg_options_to_table(relation.reloptions)
            where option_name = 'autovacuum_enabled'
        ),
        false
    )
from pg_class as relation
left join pg_index as index on index.indexrelid = relation.oid
left join pg_stat_all_tables as statistics on statistics.relid = relation.oid
where relation.relnamespace = to_regnamespace('roost')
    and relation.relkind in ('r', 'i')
order by relation.relname;

-- name: functions
select proname::text, pg_catalog.md5(prosrc)
from pg_proc
where pronamespace = to_regnamespace('roost')
order by proname;

-- name: rights
-- What this role may do: the rights on each object, and whether it owns the schema.
select
    'schema',
    nspname::text,
    array_remove(array[case when has_schema_privilege(oid, 'usage') then 'usage' end], null),
    pg_has_role(nspowner, 'usage')
from pg_namespace
where nspname = 'roost'
union all
select
    'table',
    relname::text,
    array_remove(
        array[
            case when has_table_privilege(oid, 'select') then 'select' end,
            case when has_table_privilege(oid, 'insert') then 'insert' end,
            case when has_table_privilege(oid, 'update') then 'update' end,
            case when has_table_privilege(oid, 'delete') then 'delete' end
        ],
        null
    ),
    false
from pg_class
where relnamespace = to_regnamespace('roost')
    and relkind = 'r'
union all
select
    'function',
    proname::text,
    array_remove(array[case when has_function_privilege(oid, 'execute') then 'execute' end], null),
    false
from pg_proc
where pronamespace = to_regnamespace('roost');

-- name: transactions
-- $1 seconds. The transactions of this database that began longer ago and that vacuum waits for. Without
-- the text of their statements, which may hold secrets.
select
    pid,
    usename::text,
    application_name,
    state,
    extract(epoch from now() - xact_start)::double precision
from pg_stat_activity
where datname = current_database()
    and pid <> pg_backend_pid()
    and (backend_xid is not null or backend_xmin is not null)
    and backend_type <> 'autovacuum worker'
    and xact_start < now() - make_interval(secs => $1::double precision)
order by xact_start
limit 20;

-- name: hidden_sessions
-- The sessions of this database of which this role may only see that they exist.
select pg_catalog.count(*)
from pg_stat_activity
where datname = current_database()
    and query = '<insufficient privilege>';

-- name: slots
-- The replication slots: name, whether a client uses it, how many transactions back it keeps rows, and the
-- bytes of log that it keeps; 0: it was never used.
select
    slot_name::text,
    active,
    age(xmin)::bigint,
    case
        when restart_lsn is null then 0
        when not pg_is_in_recovery() then pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)
    end::bigint
from pg_replication_slots
order by slot_name
limit 100;

-- name: prepared
-- $1 seconds. The transactions of this database that were prepared longer ago.
select gid, owner::text, extract(epoch from now() - prepared)::double precision
from pg_prepared_xacts
where database = current_database()
    and prepared < now() - make_interval(secs => $1::double precision)
order by prepared
limit 20;

-- name: workers
-- The workers, also expired ones. Running jobs are counted up to 1,000 for each.
select
    worker.id,
    worker.name,
    worker.queues,
    worker.known_tasks,
    worker.paused,
    worker.fires_cron,
    worker.version,
    worker.loop_lag,
    extract(epoch from now() - worker.heartbeat_at)::double precision,
    extract(epoch from now() - worker.expires_at)::double precision,
    (
        select pg_catalog.count(*)
        from (
            select
            from roost.jobs as job
            where job.state = 'executing'
                and job.worker_id = worker.id
            limit 1000
        ) as held
    )
from roost.workers as worker
order by worker.id
limit 1000;

-- name: orphans
-- Running jobs whose worker has no row any more: up to 1,000, and the seconds since the first began.
select
    pg_catalog.count(*),
    extract(epoch from now() - pg_catalog.min(orphan.attempted_at))::double precision
from (
    select job.attempted_at
    from roost.jobs as job
    where job.state = 'executing'
        and not exists (select from roost.workers as worker where worker.id = job.worker_id)
    limit 1000
) as orphan;
