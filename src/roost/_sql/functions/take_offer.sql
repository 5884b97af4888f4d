-- Part of a hand-over: see insert_or_hand_over.sql.
create or replace function roost.take_offer(
    worker_id bigint, offer bigint, queue text, job_id bigint
)
returns boolean
language plpgsql
as $$
begin
    update roost.workers as worker
    set offer = null,
        handed = take_offer.job_id
    where worker.id = (
            select locked.id
            from roost.workers as locked
            where locked.id = take_offer.worker_id
                and locked.offer = take_offer.offer
            -- Until the job is committed the worker can't be taken for dead.
            for no key update skip locked
        )
        and not exists (
            select
            from roost.queues as paused
            where paused.name = take_offer.queue
                and paused.paused_at is not null
        );
    return found;
end
$$;

comment on function roost.take_offer is
    'Hand a job to a worker that offers to run one; false: the offer was taken, or the queue is paused.';
