-- name: lock
-- One process migrates at a time; the lock ends with the transaction. Not an advisory lock: any role
-- that may connect could hold it.
lock table roost.migrations in share row exclusive mode;

-- name: lock_timeout
-- $1 the timeout for this transaction. Returns the previous one.
select before.setting, set_config('lock_timeout', $1::text, true)
from (select current_setting('lock_timeout') as setting offset 0) as before;

-- name: search_path
-- $1 the search_path for this transaction. Returns the previous one. Functions in public must not run.
select before.setting, set_config('search_path', $1::text, true)
from (select current_setting('search_path') as setting offset 0) as before;

-- name: begin_ledger
savepoint roost_ledger;

-- name: undo_ledger
rollback to savepoint roost_ledger;

-- name: exists
select to_regclass('roost.migrations') is not null;

-- name: create_ledger
-- "create schema if not exists" requires the right to create schemas even where the schema exists.
do $$
begin
    if to_regnamespace('roost') is null then
        create schema roost;
    end if;
end
$$;
create table if not exists roost.migrations (
    version integer primary key,
    name text not null,
    oldest_code integer not null,
    applied_at timestamptz not null default now()
);
comment on column roost.migrations.oldest_code is
    'The lowest schema version whose code may run beside this migration.';

-- name: drop_ledger
drop table roost.migrations;
-- A schema that Roost did not make stays.
do $$
begin
    if (
        select pg_has_role(nspowner, 'usage')
        from pg_namespace
        where nspname = 'roost'
    ) then
        drop schema roost;
    end if;
end
$$;

-- name: server_version
select current_setting('server_version_num')::integer;

-- name: applied
select version, name, oldest_code
from roost.migrations
order by version;

-- name: record
insert into roost.migrations (version, name, oldest_code)
values ($1::integer, $2::text, $3::integer);

-- name: forget
delete from roost.migrations
where version = $1::integer;
