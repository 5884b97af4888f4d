-- name: is_watched
select roost.is_watched();

-- name: send_events
-- $1 payloads; see roost._model.events. Returns whether a client listens; if not, nothing is sent. A lost
-- event is no harm, so the commit does not wait for the disk.
with watched as materialized (
    select roost.is_watched() as yes
    where set_config('synchronous_commit', 'off', true) is not null
),
sent as materialized (
    select
        pg_notify('roost_events', extract(epoch from clock_timestamp())::text || ' ' || payload.content)
    from watched
    cross join pg_catalog.unnest($1::text[]) as payload (content)
    where watched.yes
)
select watched.yes
from watched
where (select count(*) from sent) >= 0;

-- name: probe_events
-- $1 a payload. A listener sends it to itself to check that notifications arrive.
select pg_notify('roost_events', $1::text);

-- name: watch
-- Tell the workers that a client listens, and return those that must answer: ids and names.
with told as materialized (
    select pg_notify('roost_watch', '')
)
select worker.id, worker.name
from roost.workers as worker
where worker.expires_at > now()
    and (select count(*) from told) >= 0;

-- name: error_lines
-- $1 ids, $2 numbers of failed attempts. The first line of each attempt's error.
select
    wanted.id, wanted.attempt,
    (
        select pg_catalog.split_part(record.value ->> 'error'::text, E'\n', 1)
        from pg_catalog.jsonb_array_elements(known.errors) as record (value)
        where (record.value ->> 'attempt'::text) = wanted.attempt::text
        order by record.value ->> 'at'::text desc
        limit 1
    ) as error
from unnest($1::bigint[], $2::integer[]) as wanted (id, attempt)
join lateral (
    select live.errors::jsonb as errors
    from roost.jobs as live
    where live.id = wanted.id
    union all
    select archived.errors::jsonb
    from roost.jobs_archive as archived
    where archived.id = wanted.id
) as known on true;
