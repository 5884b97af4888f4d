-- Part of insert_unique: insert one encoded job, or do with the job that keeps it out what on_conflict
-- says. Each statement sees what was committed before it, so that a lost race is seen and tried again.
--
-- refusal: null: the job was inserted, or result_id is that of the other job as on_conflict asks. Else why
-- not, and result_id is the other job's: "active", "executing" (can't be replaced), "held" (it runs, and only
-- its unique_for keeps a waiting job out), "ended" (its unique_for is not over), "task" (of another task, so
-- it can't be replaced).
create or replace function roost.insert_unique_one(
    p_record jsonb, p_id bigint, p_key text, p_on_conflict text,
    out result_id bigint, out refusal text, out due_queue text
)
language plpgsql
as $$
declare
    new_job record;
    other record;
    hold record;
    waiting boolean := coalesce(p_record ->> 'unique_while' = 'waiting', false);
    seconds double precision := (p_record ->> 'unique_for')::double precision;
    held_by bigint;
    -- Not a field of new_job: an insert without a row sets it to null, and the loop goes on.
    inserted_limit_key text;
begin
    select
        {{new_job}}
    into new_job
    from jsonb_to_record(p_record) as encoded (
        {{new_job_fields}}
    );
    new_job.unique_key := p_key;
    -- Before a job of that kind can start, other inserts see that they must look for it.
    if waiting and not exists (select from roost.unique_waiting_used) then
        insert into roost.unique_waiting_used default values;
    end if;

    if seconds is not null then
        -- Locks the key's row until this transaction ends, and waits for others that hold the lock.
        insert into roost.unique_holds as held (unique_key, expires_at)
        values (p_key, statement_timestamp())
        on conflict (unique_key) do update set unique_key = excluded.unique_key
        returning held.holder_id, held.expires_at
        into hold;
        if hold.expires_at > statement_timestamp() then
            held_by := hold.holder_id;
        end if;
    end if;

    loop
        if held_by is null then
            if p_record ? 'depends_on' then
                select inserted.new_ids[1]
                into result_id
                from roost.insert_dependent(
                    jsonb_build_array(
                        p_record
                        || jsonb_build_object('unique_key', p_key, 'unique_waiting', waiting)
                    )::text
                ) as inserted;
            else
                insert into roost.jobs as job (
                    id, args, unique_key, limit_key, unique_waiting,
                    {{new_job_columns}}
                )
                overriding system value
                select
                    p_id, new_job.args, new_job.unique_key,
                    {{new_limit_key}},
                    waiting,
                    {{new_job_values}}
                where waiting
                    or {{key_is_unused}}
                {{unless_key_is_taken}}
                returning job.id, job.limit_key
                into result_id, inserted_limit_key;
                if result_id is not null and new_job.limited and inserted_limit_key is not null then
                    perform roost.wake_key(
                        new_job.task, inserted_limit_key, new_job.queue, new_job.due_at
                    );
                end if;
                if result_id is not null
                    and new_job.due_at <= statement_timestamp() + interval '1 minute'
                then
                    due_queue := new_job.queue;
                end if;
            end if;
            if result_id is not null then
                if seconds is not null then
                    update roost.unique_holds as held
                    set holder_id = result_id,
                        expires_at = statement_timestamp() + make_interval(secs => seconds)
                    where held.unique_key = p_key;
                end if;
                return;
            end if;

            select job.id, job.state, job.task, job.lease_no, job.unique_waiting
            into other
            from roost.jobs as job
            where job.unique_key = p_key
                and job.state in ('available', 'executing', 'retryable')
                and not (waiting and job.unique_waiting and job.lease_no > 0)
            -- One that can be replaced first, and of these the one that holds the key.
            order by
                job.state = 'executing',
                case when job.unique_waiting and job.lease_no > 0 then job.id else 0 end
            limit 1;
            -- It has ended since the insert.
            continue when other.id is null;

            if waiting and other.lease_no > 0 then
                -- It has started, and would hold its key until its end: it gives the key up.
                update roost.jobs as job
                set unique_waiting = true
                where job.id = other.id
                    and job.lease_no > 0
                    and job.state in ('available', 'executing', 'retryable');
                continue;
            end if;
        else
            -- An active job with the key comes before one that has ended: a call without unique_for may
            -- have inserted it since.
            select job.id, job.state, job.task, job.lease_no
            into other
            from roost.jobs as job
            where job.unique_key = p_key
                and job.state in ('available', 'executing', 'retryable')
            order by
                job.state = 'executing',
                case when job.unique_waiting and job.lease_no > 0 then job.id else 0 end
            limit 1;
        end if;

        result_id := coalesce(other.id, held_by);
        refusal := case
            when p_on_conflict = 'return' then null
            when other.id is null then 'ended'
            when p_on_conflict <> 'replace' then 'active'
            when other.state = 'executing' and waiting then 'held'
            when other.state = 'executing' then 'executing'
            when other.task <> new_job.task then 'task'
        end;
        if p_on_conflict <> 'replace' or refusal is not null then
            return;
        end if;

        -- A claim at the same moment skips the row, or this statement waits for the claim and then
        -- finds the job executing.
        update roost.jobs as job
        set args = new_job.args,
            queue = new_job.queue,
            priority = new_job.priority,
            -- At least one more attempt.
            max_attempts = greatest(
                new_job.max_attempts, least(job.attempt, 2147483646) + 1
            ),
            -- Without a time of its own the new job is due now, and keeps the place in the queue of a
            -- job that is due already: many replaces must not push it back for ever.
            scheduled_at = case
                when new_job.scheduled_at is null and new_job.schedule_in is null
                    then least(job.scheduled_at, new_job.due_at)
                else new_job.due_at
            end,
            tags = new_job.tags,
            timeout_seconds = new_job.timeout_seconds,
            metadata = new_job.metadata,
            limited = new_job.limited,
            limit_key = {{new_limit_key}}
        where job.id = other.id
            and job.state in ('available', 'retryable')
            and (held_by is not null or not waiting or job.lease_no = 0)
        returning
            job.id,
            case
                when job.pending_parents = 0
                    and job.scheduled_at <= statement_timestamp() + interval '1 minute'
                    then job.queue
            end
        into result_id, due_queue;
        if result_id is not null then
            if new_job.limited then
                perform roost.wake_key(job.task, job.limit_key, job.queue, job.scheduled_at)
                from roost.jobs as job
                where job.id = result_id
                    and job.pending_parents = 0
                    and job.limit_key is not null;
            end if;
            return;
        end if;
    end loop;
end
$$;

comment on function roost.insert_unique_one is
    'Insert one job of insert_unique, or return, replace or refuse as on_conflict says.';
