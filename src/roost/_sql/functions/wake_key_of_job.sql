-- Request a look at the key of an inserted job. A trigger, since every kind of insert needs it; only rows
-- with a limit key call it.
create or replace function roost.wake_key_of_job()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform roost.wake_key(new.task, new.limit_key, new.queue, new.scheduled_at);
    return null;
end
$$;

revoke execute on function roost.wake_key_of_job() from public;

comment on function roost.wake_key_of_job is
    'Trigger: have the next claim look at the limit key of a new job.';

-- Only once: a new trigger locks the table.
do $$
begin
    if not exists (
        select
        from pg_catalog.pg_trigger
        where tgrelid = 'roost.jobs'::regclass
            and tgname = 'jobs_wake_key'
    ) then
        create trigger jobs_wake_key after insert on roost.jobs
        for each row
        when (
            new.limit_key is not null and new.limited and new.pending_parents = 0
            and new.state in ('available', 'retryable')
        )
        execute function roost.wake_key_of_job();
    end if;
end
$$;
