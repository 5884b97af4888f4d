-- Part of a hand-over: see insert_or_dispatch.sql.
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
            -- Until the job is committed the worker can't be taken for dead.
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
    'Hand a job to a worker that has granted a credit; false: the credit was consumed, or the queue is paused.';
