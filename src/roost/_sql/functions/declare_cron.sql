-- Declare the cron entries of a worker's code. Returns what became of each:
--
-- in force: the row shows this declaration.
-- superseded: a living worker declares the entry otherwise, and that was first seen later.
-- locked: another transaction is changing the entry; try again.
-- taken: add_cron has added an entry of that name.
--
-- A function, because it locks each row before it reads who declares the entry, and a worker that stops
-- between two statements must not keep the lock. Each statement sees what was committed before it.
create or replace function roost.declare_cron(
    p_entries jsonb, p_worker text, p_stale_after double precision
)
returns table (declared_name text, declared_as text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    entry record;
    known record;
    oldest timestamptz := now() - make_interval(secs => p_stale_after);
    newest text;
    starts boolean;
    changed boolean := false;
begin
    for entry in
        select *
        from jsonb_to_recordset(p_entries) as declared (
            name text,
            expression text,
            timezone text,
            task text,
            queue text,
            args jsonb,
            priority integer,
            max_attempts integer,
            tags text[],
            timeout_seconds integer,
            misfire text,
            overlap text,
            jitter double precision,
            run_on_start boolean,
            args_from_code boolean,
            next_tick_at timestamptz,
            fingerprint text
        )
        order by declared.name
    loop
        declared_name := entry.name;
        select cron.source, cron.fingerprint, cron.fingerprints
        into known
        from roost.cron
        where cron.name = entry.name
        for no key update skip locked;
        if not found then
            insert into roost.cron (
                name, source, expression, timezone, task, queue, args, priority, max_attempts, tags,
                timeout_seconds, misfire, overlap, jitter, run_on_start, args_from_code, next_tick_at,
                start_at, fingerprint, fingerprints, inserted_at
            )
            values (
                entry.name, 'code', entry.expression, entry.timezone, entry.task, entry.queue,
                entry.args, entry.priority, entry.max_attempts, entry.tags, entry.timeout_seconds,
                entry.misfire, entry.overlap, entry.jitter, entry.run_on_start, entry.args_from_code,
                entry.next_tick_at, case when entry.run_on_start then now() end, entry.fingerprint,
                array[entry.fingerprint], now()
            )
            on conflict do nothing;
            declared_as := case when found then 'in force' else 'locked' end;
            if found then
                changed := true;
                insert into roost.cron_declarations (name, worker, fingerprint, declared_at)
                values (entry.name, p_worker, entry.fingerprint, now())
                on conflict (name, worker) do update
                set fingerprint = excluded.fingerprint,
                    declared_at = excluded.declared_at;
            end if;
            return next;
            continue;
        end if;
        if known.source = 'database' then
            declared_as := 'taken';
            return next;
            continue;
        end if;
        delete from roost.cron_declarations as old
        where (old.name, old.worker) in (
            select stale.name, stale.worker
            from roost.cron_declarations as stale
            where stale.name = entry.name
                and stale.declared_at < oldest
            -- A worker that was frozen may be renewing it.
            for update skip locked
        );
        starts := entry.run_on_start and not exists (
            select
            from roost.cron_declarations as served
            where served.name = entry.name
                and served.declared_at >= oldest
        );
        insert into roost.cron_declarations (name, worker, fingerprint, declared_at)
        values (entry.name, p_worker, entry.fingerprint, now())
        on conflict (name, worker) do update
        set fingerprint = excluded.fingerprint,
            declared_at = excluded.declared_at;
        if not entry.fingerprint = any (known.fingerprints) then
            -- Bounded, for code that declares another value at each start.
            known.fingerprints := known.fingerprints[array_length(known.fingerprints, 1) - 98:]
                || entry.fingerprint;
        end if;
        select seen.fingerprint
        into newest
        from unnest(known.fingerprints) with ordinality as seen (fingerprint, place)
        where exists (
            select
            from roost.cron_declarations as living
            where living.name = entry.name
                and living.fingerprint = seen.fingerprint
                and living.declared_at >= oldest
        )
        order by seen.place desc
        limit 1;
        declared_as := case when newest = entry.fingerprint then 'in force' else 'superseded' end;
        if declared_as = 'in force' and (starts or known.fingerprint <> entry.fingerprint) then
            changed := true;
            update roost.cron as present
            set expression = entry.expression,
                timezone = entry.timezone,
                task = entry.task,
                queue = entry.queue,
                args = entry.args,
                priority = entry.priority,
                max_attempts = entry.max_attempts,
                tags = entry.tags,
                timeout_seconds = entry.timeout_seconds,
                misfire = entry.misfire,
                overlap = entry.overlap,
                jitter = entry.jitter,
                run_on_start = entry.run_on_start,
                args_from_code = entry.args_from_code,
                fingerprint = entry.fingerprint,
                fingerprints = known.fingerprints,
                start_at = case when starts then now() else present.start_at end,
                next_tick_at = case
                    when (present.expression, present.timezone) is distinct from
                        (entry.expression, entry.timezone)
                        then entry.next_tick_at
                    else present.next_tick_at
                end
            where present.name = entry.name;
        end if;
        return next;
    end loop;
    if changed then
        -- Other workers may wait for a tick that is now later than the first one.
        perform pg_notify('roost_cron', '');
    end if;
end
$$;

comment on function roost.declare_cron is
    'Declare the cron entries of a worker''s code. The declaration that was first seen last wins, while a living worker has it.';
