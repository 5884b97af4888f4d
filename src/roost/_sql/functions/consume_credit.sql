-- Part of a hand-over: see insert_or_dispatch.sql.
create or replace function roost.consume_credit(
    worker_id bigint, credit bigint, queue text, job_id bigint
)
returns boolean
language plpgsql
as $$
begin
    update roost.workers as worker
    set credit = null,
        dispatched_job_id = consume_credit.job_id
    where worker.id = (
            select locked.id
            from roost.workers as locked
            where locked.id = consume_credit.worker_id
                and locked.credit = consume_credit.credit
            -- Until the job is committed the worker can't be taken for dead.
            for no key update skip locked
        )
        and not exists (
            select
            from roost.queues as paused
            where paused.name = consume_credit.queue
                and paused.paused_at is not null
        );
    return found;
end
$$;

comment on function roost.consume_credit is
    'Hand a job to a worker that has granted a credit; false: the credit was consumed, or the queue is paused.';
