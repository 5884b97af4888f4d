-- Have the next claim of the task look at the jobs of a limit key in a queue. Call it in the transaction
-- in which a job of the key becomes claimable, or ends: a claim that sees the request sees the change, too.
create or replace function roost.wake_key(
    p_task text, p_limit_key text, p_queue text, p_ready_at timestamptz default statement_timestamp()
)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    insert into roost.key_wakes (task, limit_key, queue, ready_at)
    values (p_task, p_limit_key, p_queue, p_ready_at)
$$;

comment on function roost.wake_key is
    'Have the next claim of the task look at the waiting jobs of a limit key, from a time on.';
