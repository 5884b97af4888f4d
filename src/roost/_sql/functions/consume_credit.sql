-- Consume the credit of a worker for one job. Part of insert_or_dispatch.sql.
create or replace function roost.consume_credit(
    p_worker_id bigint, p_credit bigint, p_queue text, p_job_id bigint
)
returns boolean
language plpgsql
as $$
begin
    update roost.workers as worker
    set credit = null,
        dispatched_job_id = p_job_id
    where worker.id = (
            select locked.id
            from roost.workers as locked
            where locked.id = p_worker_id
                and locked.credit = p_credit
            -- The lock also keeps rescues from removing the worker until the job is committed.
            for no key update skip locked
        )
        and not exists (
            select
            from roost.queues as paused
            where paused.name = p_queue
                and paused.paused_at is not null
        );
    return found;
end
$$;

comment on function roost.consume_credit is
    'Consume a worker''s credit for one job; false: it is consumed or revoked already, its row is locked, or the queue is paused.';
