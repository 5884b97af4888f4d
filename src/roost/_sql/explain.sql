-- name: facts
-- $1 id of a live or archived job. A JSON object of all that says whether it can run; see
-- roost._model.explain. No row: there is no such job.
--
-- Each count ends early, and each list of names or ids is short: a queue may have a million jobs.
with recursive this as materialized (
    select
        job.id, job.state, job.queue, job.task, job.priority, job.scheduled_at, job.attempted_at,
        {{ended_at}} as ended_at, job.attempt, job.max_attempts, job.worker_id,
        job.pending_parents, job.cancel_requested, job.limited, job.limit_key, job.prefetch_no,
        job.depends_on, job.errors, false as archived
    from roost.jobs as job
    where job.id = $1::bigint
    union all
    select
        job.id, job.state, job.queue, job.task, job.priority, job.scheduled_at, job.attempted_at,
        {{ended_at}}, job.attempt, job.max_attempts, job.worker_id,
        job.pending_parents, job.cancel_requested, job.limited, job.limit_key, job.prefetch_no,
        job.depends_on, job.errors, true
    from roost.jobs_archive as job
    where job.id = $1::bigint
),
served as materialized (
    select
        worker.id, worker.name, worker.concurrency, worker.known_tasks, worker.stopping,
        worker.poll_interval,
        (worker.slots ->> this.queue::text)::integer as own_slots,
        this.task = any (worker.known_tasks) as knows,
        this.queue = any (worker.paused) as has_paused
    from this
    join roost.workers as worker on this.queue = any (worker.queues)
    where this.state in ('available', 'retryable')
        and worker.expires_at > now()
    order by this.task = any (worker.known_tasks) desc, worker.id
    limit 200
),
serving as materialized (
    select
        served.id, served.name, served.concurrency, served.own_slots, served.knows,
        served.has_paused, served.stopping, served.poll_interval, held.running, held.of_queue
    from this
    cross join served
    cross join lateral (
        select count(*) as running, count(*) filter (where job.queue = this.queue) as of_queue
        from roost.jobs as job
        join roost.workers as worker on worker.id = job.worker_id
        where job.state = 'executing'
            and job.worker_id = served.id
            -- A call of the function takes 10 microseconds.
            and (
                job.prefetch_no is null
                or not roost.is_unstarted(
                    job.prefetch_no, job.priority, job.scheduled_at, job.id,
                    worker.prefetch_started
                )
            )
            and this.pending_parents = 0
            and this.scheduled_at <= now()
    ) as held
),
-- Each priority with waiting jobs, from the first to that of the job.
head (queue, own, priority) as (
    select this.queue, this.priority, bigint '-2147483649'
    from this
    where this.state in ('available', 'retryable')
        and this.pending_parents = 0
        and this.scheduled_at <= now()
    union all
    select head.queue, head.own, next.priority
    from head
    cross join lateral (
        select job.priority::bigint
        from roost.jobs as job
        where job.queue = head.queue
            and job.priority > head.priority
            and job.priority <= head.own
            and {{claimable}}
        order by job.priority
        limit 1
    ) as next
),
in_front as materialized (
    select count(*) as jobs
    from (
        select
        from this
        cross join (
            select head.priority::integer as priority, head.own
            from head
            where head.priority >= -2147483648
            limit 100
        ) as head
        cross join lateral (
            select job.task
            from roost.jobs as job
            where job.queue = this.queue
                and job.priority = head.priority
                and {{claimable}}
                and (job.scheduled_at, job.id) < (
                    case when head.priority < head.own then now() else this.scheduled_at end,
                    case when head.priority < head.own then 9223372036854775807 else this.id end
                )
            order by job.scheduled_at, job.id
            limit 5000
        ) as earlier
        -- Without jobs that these workers don't know: they take no slot.
        where earlier.task = any (array(
                select known.task
                from served
                cross join lateral pg_catalog.unnest(served.known_tasks) as known (task)
            ))
        limit 1000
    ) as earlier
),
task_in_front as materialized (
    select count(*) as jobs
    from (
        select
        from this
        cross join lateral (
            select job.scheduled_at, job.limit_key
            from roost.jobs as job
            where job.queue = this.queue
                and job.task = this.task
                and {{claimable_limited}}
                and (job.priority, job.scheduled_at, job.id)
                    < (this.priority, this.scheduled_at, this.id)
            order by job.priority, job.scheduled_at, job.id
            limit 5000
        ) as earlier
        where this.limited
            and this.state in ('available', 'retryable')
            and earlier.scheduled_at <= now()
            and earlier.limit_key is not distinct from this.limit_key
        limit 1000
    ) as earlier
),
executing_by_task as materialized (
    select job.task, count(*) as jobs
    from roost.jobs as job
    where job.state = 'executing'
    group by job.task
),
-- Jobs of other tasks that have limits: of each no more than its limits let start now. Limits by key are
-- not looked at.
limited_in_front as materialized (
    select coalesce(sum(least(earlier.jobs, known.room)), 0)::bigint as jobs
    from this
    cross join lateral (
        select
            known.task,
            case
                when known.limit_by is null then least(
                    known.max_concurrency - coalesce((
                        select executing_by_task.jobs
                        from executing_by_task
                        where executing_by_task.task = known.task
                    ), 0),
                    known.rate_per_minute - (
                        select count(*)
                        from roost.starts
                        where starts.task = known.task
                            and starts.started_at > now() - interval '61 seconds'
                    )
                )
            end as room
        from roost.limits as known
        where not (this.limited and known.task = this.task)
            and known.task = any (array(
                    select served_task.task
                    from served
                    cross join lateral pg_catalog.unnest(served.known_tasks) as served_task (task)
                ))
        order by known.task
        limit 100
    ) as known
    cross join lateral (
        select count(*) as jobs
        from (
            select
            from (
                select job.scheduled_at
                from roost.jobs as job
                where job.queue = this.queue
                    and job.task = known.task
                    and {{claimable_limited}}
                    and (job.priority, job.scheduled_at, job.id)
                        < (this.priority, this.scheduled_at, this.id)
                order by job.priority, job.scheduled_at, job.id
                limit 5000
            ) as job
            where job.scheduled_at <= now()
            limit 1000
        ) as due
    ) as earlier
    where this.pending_parents = 0
        and this.scheduled_at <= now()
        and (known.room is null or known.room > 0)
        and (select in_front.jobs from in_front) < 1000
)
select pg_catalog.jsonb_build_object(
    'now', now(),
    'job', (
        select pg_catalog.to_jsonb(shown)
        from (
            select
                this.id, this.state, this.queue, this.task, this.scheduled_at, this.attempted_at,
                this.ended_at, this.attempt, this.max_attempts, this.worker_id,
                this.pending_parents, this.cancel_requested, this.limit_key, this.archived,
                left(this.errors -> -1 ->> text 'error', 500) as last_error
        ) as shown
    ),
    'paused_at', (
        select queues.paused_at
        from roost.queues as queues
        where queues.name = this.queue
    ),
    'parents', (
        select pg_catalog.jsonb_agg(
            pg_catalog.jsonb_build_object('id', parent.id, 'state', parent.state) order by parent.id
        )
        from (
            select distinct job.id, job.state
            from pg_catalog.unnest(this.depends_on) as wanted (id)
            join roost.dependencies as link
                on link.parent_id = wanted.id
                and link.child_id = this.id
            join roost.jobs as job on job.id = link.parent_id
            where this.pending_parents > 0
            order by job.id
            limit 20
        ) as parent
    ),
    'worker', (
        select pg_catalog.jsonb_build_object(
            'id', worker.id, 'name', worker.name, 'heartbeat_at', worker.heartbeat_at,
            'expires_at', worker.expires_at,
            'heartbeat_interval', worker.heartbeat_interval,
            'stopping', worker.stopping,
            'unstarted', roost.is_unstarted(
                this.prefetch_no, this.priority, this.scheduled_at, this.id,
                worker.prefetch_started
            )
        )
        from roost.workers as worker
        where this.state = 'executing'
            and worker.id = this.worker_id
    ),
    'living_workers', (
        select count(*)
        from roost.workers as worker
        where worker.expires_at > now()
    ),
    'served_queues', (
        select pg_catalog.jsonb_agg(named.queue order by named.queue)
        from (
            select distinct served.queue
            from roost.workers as worker
            cross join lateral pg_catalog.unnest(worker.queues) as served (queue)
            where worker.expires_at > now()
                and not exists (select from serving)
            order by served.queue
            limit 20
        ) as named
    ),
    'workers', (
        select pg_catalog.jsonb_agg(pg_catalog.to_jsonb(serving) order by serving.id)
        from serving
    ),
    'in_front', (
        select least(in_front.jobs + limited_in_front.jobs, 1000)
        from in_front
        cross join limited_in_front
    ),
    'task_in_front', (select task_in_front.jobs from task_in_front),
    'limit', (
        select pg_catalog.jsonb_build_object(
            'max_concurrency', known.max_concurrency,
            'rate_per_minute', known.rate_per_minute,
            'set_max_concurrency', known.set_max_concurrency,
            'set_rate_per_minute', known.set_rate_per_minute,
            'limit_by', known.limit_by,
            'executing', executing.jobs,
            'executing_ids', executing.ids,
            'started', (
                select count(*)
                from roost.starts
                where starts.task = this.task
                    and (known.limit_by is null or starts.limit_key = this.limit_key)
                    and starts.started_at > now() - interval '61 seconds'
            ),
            -- When the window of 61 s has one start less than the rate allows.
            'room_at', (
                select starts.started_at + interval '61 seconds'
                from roost.starts
                where starts.task = this.task
                    and (known.limit_by is null or starts.limit_key = this.limit_key)
                    and starts.started_at > now() - interval '61 seconds'
                order by starts.started_at desc
                offset greatest(known.rate_per_minute - 1, 0)
                limit 1
            )
        )
        from roost.limits as known
        cross join lateral (
            select
                count(*) as jobs,
                coalesce((pg_catalog.array_agg(held.id order by held.id))[:20], '{}') as ids
            from (
                select job.id
                from roost.jobs as job
                where known.limit_by is null
                    and job.state = 'executing'
                    and job.task = this.task
                union all
                select job.id
                from roost.jobs as job
                where known.limit_by is not null
                    and job.state = 'executing'
                    and job.task = this.task
                    and job.limit_key = this.limit_key
            ) as held
        ) as executing
        where known.task = this.task
            and this.limited
            and this.state in ('available', 'retryable')
    )
)::text
from this;
