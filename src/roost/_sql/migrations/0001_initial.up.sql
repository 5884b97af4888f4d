-- The tables and their indexes. The functions are in ../functions.
--
-- Columns are in order of alignment (eight bytes, four, one, then variable length), which saves padding
-- in every row. Empty errors, tags, depends_on and metadata are null and take one bit each.

-- Every worker and client can read what these domains allow, so that no row can crash a worker. Domains,
-- because Postgres caches their checks for the session; it reads the checks of a table again for every
-- statement that writes to it. See decision 0009.
create domain roost.instant as timestamptz
    check (value between '0002-01-01Z' and '9998-12-31Z');
create domain roost.count as integer check (value >= 0);
create domain roost.positive as integer check (value >= 1);
create domain roost.name as text check (length(value) between 1 and 200);
create domain roost.key as text check (length(value) between 1 and 500);
create domain roost.state as text check (
    value in ('available', 'executing', 'retryable', 'completed', 'discarded', 'cancelled')
);
create domain roost.tags as text[]
    check (coalesce(array_ndims(value), 1) = 1 and array_position(value, null) is null);
create domain roost.ids as bigint[]
    check (coalesce(array_ndims(value), 1) = 1 and array_position(value, null) is null);
create domain roost.json_object as jsonb check (jsonb_typeof(value) = 'object');
create domain roost.error_records as jsonb check (
    jsonb_typeof(value) = 'array'
    and not jsonb_path_exists(value, 'strict $[*] ? (@.type() != "object")')
);

-- Otherwise other roles could create operators for the domains, which Postgres would prefer to those of
-- the base types.
revoke usage on domain
    roost.instant, roost.count, roost.positive, roost.name, roost.key, roost.state,
    roost.tags, roost.ids, roost.json_object, roost.error_records
    from public;

create table roost.jobs (
    id bigint generated always as identity primary key,
    scheduled_at roost.instant not null default now(),
    inserted_at roost.instant not null default now(),
    attempted_at roost.instant,
    completed_at roost.instant,
    cancelled_at roost.instant,
    discarded_at roost.instant,
    worker_id bigint,
    lease_no roost.count not null default 0,
    priority integer not null default 0,
    attempt roost.count not null default 0,
    max_attempts roost.positive not null default 20,
    timeout_seconds roost.positive,
    prefetch_no integer,
    pending_parents roost.count not null default 0,
    cancel_requested boolean not null default false,
    -- A job with waiting children is settled together with them.
    has_children boolean not null default false,
    -- Jobs of limited tasks have an index of their own, so that other claims don't walk over them.
    limited boolean not null default false,
    -- A client waits for this job: the statement that ends it sends a notification.
    awaited boolean not null default false,
    -- Its unique key counts until its first claim only.
    unique_waiting boolean not null default false,
    state roost.state not null default 'available',
    queue roost.name not null default 'default',
    task roost.name not null,
    unique_key roost.key,
    -- The value by which its task's limits apply; null: they apply to all jobs of the task together.
    limit_key text,
    args roost.json_object not null default '{}',
    metadata roost.json_object,
    tags roost.tags,
    depends_on roost.ids,
    errors roost.error_records,
    result jsonb
)
with (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
);

comment on column roost.jobs.worker_id is
    'The worker incarnation that holds the lease while executing; afterwards the one that ran the last attempt.';
comment on column roost.jobs.prefetch_no is
    'The number of the worker''s claim that prefetched the job; null: the job was claimed to start at once.';
comment on column roost.jobs.lease_no is
    'Counts claims and never goes down: with id and worker_id it names one lease.';

-- Walked by claims: waiting jobs only, in the order in which they run.
create index jobs_claim on roost.jobs (queue, priority, scheduled_at, id)
where state in ('available', 'retryable') and pending_parents = 0 and not limited;

create index jobs_claim_limited on roost.jobs (queue, task, priority, scheduled_at, id)
where state in ('available', 'retryable') and pending_parents = 0 and limited;

-- Jobs with limits by key: those of one key in the order in which they run.
create index jobs_claim_keyed on roost.jobs (task, limit_key, queue, priority, scheduled_at, id)
where state in ('available', 'retryable') and pending_parents = 0 and limited
    and limit_key is not null;

-- At most one active job holds a given key: a job until its end, or until its first claim if
-- unique_waiting. Jobs that hold their key no more are in the index too, each by its own id, so that
-- all active jobs of a key are found by one probe. lease_no never goes down, so no later move of a job
-- can take its key again.
create unique index jobs_unique_key on roost.jobs (
    unique_key, (case when unique_waiting and lease_no > 0 then id else 0 end)
)
where unique_key is not null and state in ('available', 'executing', 'retryable');

-- Walked by rescues: executing jobs only.
create index jobs_executing on roost.jobs (worker_id)
where state = 'executing';

-- Counted by claims: the executing jobs of one limit key.
create index jobs_executing_keyed on roost.jobs (task, limit_key)
where state = 'executing' and limit_key is not null;

-- Walked by the archive and the deletion of ended jobs: one state at a time, oldest end first.
create index jobs_finished on roost.jobs (state, greatest(completed_at, cancelled_at, discarded_at))
where state in ('completed', 'discarded', 'cancelled');

-- Walked by the expiry of results: only jobs that still have one.
create index jobs_results on roost.jobs (completed_at)
where state = 'completed' and result is not null;

-- Counted for each queue besides the jobs in the claim's indexes, and listed in the order of their ids;
-- see functions/list_queues.sql and list_jobs.sql.
create index jobs_counted on roost.jobs (state, queue, id)
where (state in ('retryable', 'discarded') or pending_parents > 0);

-- The planner uses no statistics of a partial index, and estimates a third of the table for any range
-- of ends. Postgres 13 has no statistics on expressions.
do $$
begin
    if current_setting('server_version_num')::integer >= 140000 then
        execute 'create statistics roost.jobs_ended_at
            on (greatest(completed_at, cancelled_at, discarded_at)) from roost.jobs';
    end if;
end
$$;

-- The columns of roost.jobs without its indexes and defaults.
create table roost.jobs_archive (
    like roost.jobs,
    archived_at roost.instant not null default now(),
    primary key (id)
);

alter table roost.jobs_archive alter column awaited set default false;
alter table roost.jobs_archive alter column unique_waiting set default false;

-- Walked by the deletion of archived jobs.
create index jobs_archive_finished
on roost.jobs_archive (state, greatest(completed_at, cancelled_at, discarded_at));

create index jobs_archive_results on roost.jobs_archive (completed_at)
where result is not null;

-- One row for each child and parent that it still waits for; deleted when the parent ends.
create table roost.dependencies (
    parent_id bigint not null,
    child_id bigint not null,
    primary key (parent_id, child_id)
);

-- The keys of jobs with unique_for, also after these jobs have ended or are gone. A key without a row,
-- or with a row that has expired, is free.
create table roost.unique_holds (
    unique_key roost.key primary key,
    holder_id bigint,
    expires_at roost.instant not null
);

-- Has a row as soon as a job with unique_while = 'waiting' was enqueued. Without one, no job can have
-- given up its key, so other enqueues do not look for such jobs.
create table roost.unique_waiting_used (
    since roost.instant not null default now()
);

alter table roost.unique_waiting_used replica identity full;

-- Walked by the archive lane, which removes expired rows.
create index unique_holds_expired on roost.unique_holds (expires_at);

create table roost.workers (
    id bigint generated always as identity primary key,
    name text not null,
    queues roost.tags not null,
    concurrency integer not null,
    started_at roost.instant not null default now(),
    heartbeat_at roost.instant not null default now(),
    expires_at roost.instant not null,
    scraped_at roost.instant,
    loop_lag double precision not null default 0,
    poll_interval double precision,
    heartbeat_interval double precision,
    pid integer,
    running integer not null default 0,
    waiting integer not null default 0,
    wants_notify boolean not null default true,
    credit bigint,
    dispatched_job_id bigint,
    channel text,
    tasks roost.tags not null default '{}',
    credit_queues roost.tags,
    known_tasks roost.tags not null default '{}',
    fires_cron boolean not null default true,
    stopping boolean not null default false,
    version text,
    driver text,
    event_loop text,
    host text,
    slots jsonb,
    paused roost.tags not null default '{}',
    prefetch_started bigint[]
)
with (fillfactor = 50);

comment on table roost.workers is
    'One row a worker incarnation. After expires_at other workers may rescue its jobs.';
comment on column roost.workers.scraped_at is
    'When its metrics were last known to be scraped; null: never. The oldest worker that is scraped exports the numbers of the database.';
comment on column roost.workers.wants_notify is
    'Whether producers notify the worker of new jobs. Otherwise it polls every few milliseconds.';
comment on column roost.workers.credit is
    'The number of the outstanding credit: a producer may dispatch one job to the worker. Null: no credit, or it was consumed.';
comment on column roost.workers.dispatched_job_id is
    'The job that was dispatched to the worker and that it has not accepted yet.';
comment on column roost.workers.channel is
    'Where notifications tell the worker to read its row. Its listening connection holds the advisory lock hashtextextended(channel, 0).';
comment on column roost.workers.tasks is 'The tasks of which its credit accepts a job.';
comment on column roost.workers.credit_queues is
    'The queues of which its credit accepts a job: those with a free slot. Null: all that it serves.';
comment on column roost.workers.loop_lag is
    'By how many seconds its event loop was late at most, between the last two heartbeats.';
comment on column roost.workers.poll_interval is
    'Seconds after which it looks for jobs without a notification.';
comment on column roost.workers.heartbeat_interval is 'Seconds between two heartbeats.';
comment on column roost.workers.stopping is
    'Whether it starts no more jobs: its stop was requested.';
comment on column roost.workers.running is 'Jobs in its slots at the last heartbeat.';
comment on column roost.workers.waiting is
    'Jobs that it had claimed and that waited for a slot, at the last heartbeat.';
comment on column roost.workers.slots is
    'The slots of each queue; null: its queues share all of them.';
comment on column roost.workers.known_tasks is 'The tasks that it has handlers for.';
comment on column roost.workers.fires_cron is 'Whether it fires cron entries: its setting run_cron.';
comment on column roost.workers.prefetch_started is
    'The place of the last prefetched job that may have started: prefetch_no, priority, scheduled_at in microseconds since 1970, id.';
comment on column roost.workers.paused is
    'The paused queues of which it starts no jobs. pause_queue waits until each worker has confirmed the pause here.';

-- The limits that code declares and that set_limit sets. A claim of a limited task locks its row.
create table roost.limits (
    task text primary key,
    declared_rate_per_minute roost.positive,
    declared_max_concurrency roost.positive,
    set_rate_per_minute roost.positive,
    set_max_concurrency roost.positive,
    rate_per_minute integer
        generated always as (coalesce(set_rate_per_minute, declared_rate_per_minute)) stored,
    max_concurrency integer
        generated always as (coalesce(set_max_concurrency, declared_max_concurrency)) stored,
    -- The field of args by whose values the limits apply, with dots for nested ones; '()': a function of
    -- the clients; null: the limits apply to all jobs of the task together.
    limit_by text,
    -- limit_by has changed: waiting jobs may have keys of the earlier one.
    has_stale_keys boolean not null default false,
    -- For jobs whose transactions could not see this row: they are marked as limited later; see
    -- limits.sql.
    published_by xid8 not null default pg_current_xact_id(),
    snapshots_gone boolean not null default false,
    all_marked boolean not null default false
);

-- The starts of rate-limited tasks within the last minute.
create table roost.starts (
    task text not null,
    started_at roost.instant not null,
    limit_key text
);

create index starts_window on roost.starts (task, started_at);

create index starts_of_key on roost.starts (task, limit_key, started_at)
where limit_key is not null;

-- The table has no key. Without this a publication of all tables would refuse its deletes.
alter table roost.starts replica identity full;

-- The options that workers' code declares for tasks. An enqueue by a process that does not know the task
-- fills what was not passed.
create table roost.tasks (
    name roost.name primary key,
    options roost.json_object not null,
    args_schema roost.json_object,
    -- Older options: a worker that declares them replaces newer ones only if no living worker declares those.
    replaced jsonb[] not null default '{}',
    declared_by roost.ids not null
);

comment on column roost.tasks.args_schema is
    'The JSON Schema of the args; null: the code has no model and no annotations that give one.';
comment on column roost.tasks.options is
    'Those of queue, priority, max_attempts, tags and timeout_seconds that the code declares.';

-- Requests to look at the jobs of a limit key again, from a time on: one was enqueued, or has ended. Only
-- added to, so that no transaction waits for another. The next claim of the task moves them into
-- roost.ready_keys.
create table roost.key_wakes (
    task text not null,
    limit_key text not null,
    queue text not null,
    ready_at roost.instant not null
)
with (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);

create index key_wakes_task on roost.key_wakes (task);

alter table roost.key_wakes replica identity full;

-- The limit keys that have waiting jobs in a queue, and when a claim looks at them; 9998-12-31: when a
-- job of the key has ended. Written only under the lock of the task's row in roost.limits.
create table roost.ready_keys (
    task text not null,
    limit_key text not null,
    queue text not null,
    ready_at roost.instant not null,
    primary key (task, limit_key, queue)
)
with (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);

create index ready_keys_next on roost.ready_keys (task, queue, ready_at);

-- What workers have counted: one row a minute for each worker, queue, task and outcome. Rows are only
-- added. Those of several workers are merged ten minutes after their minute, all of an hour when it has
-- ended two hours ago; and they are deleted after 14 days.
create table roost.rollups (
    id bigint generated always as identity primary key,
    minute roost.instant not null,
    worker_id bigint,
    count bigint not null,
    wait_seconds double precision not null,
    run_seconds double precision not null,
    seconds integer not null default 60,
    batch integer,
    queue roost.name not null,
    task roost.name not null,
    outcome text not null,
    wait numeric not null,
    run numeric not null
);

comment on column roost.rollups.minute is
    'The minute in which most of the attempts ended; the hour, if seconds is 3600.';
comment on column roost.rollups.worker_id is
    'The worker that has counted; null: several workers.';
comment on column roost.rollups.seconds is
    'The length of the time that the row is of: 60, or 3600 after the merge of its hour.';
comment on column roost.rollups.batch is
    'The number of the worker''s write, so that a write without an answer is not repeated.';
comment on column roost.rollups.wait is
    'Histogram of the times from due to started: the last twelve digits are the count of bucket 0, and so on. Sums of histograms are histograms. See roost._model.histogram.';
comment on column roost.rollups.run is 'Histogram of the times from started to ended, likewise.';

-- Walked by readings, and by the deletion of old rows.
create index rollups_minute on roost.rollups (minute);

-- Walked by the merges, and by a write that is tried again.
create index rollups_minutes on roost.rollups (minute, worker_id)
where seconds = 60;

create table roost.queues (
    name roost.name primary key,
    paused_at roost.instant
);

-- Cron entries, with their next and last ticks.
create table roost.cron (
    name roost.name primary key,
    source text not null check (source in ('code', 'database')),
    expression text not null,
    timezone text,
    task roost.name not null,
    queue roost.name not null,
    args roost.json_object not null,
    priority integer not null,
    max_attempts roost.positive not null,
    tags roost.tags,
    timeout_seconds roost.positive,
    misfire text not null check (misfire in ('skip', 'last', 'all')),
    overlap text not null check (overlap in ('allow', 'skip')),
    jitter double precision not null check (jitter between 0 and 31622400),
    run_on_start boolean not null default false,
    args_from_code boolean not null default false,
    next_tick_at roost.instant not null,
    start_at roost.instant,
    last_tick_at roost.instant,
    last_job_id bigint,
    paused_at roost.instant,
    fingerprint text,
    fingerprints text[] not null default '{}',
    inserted_at roost.instant not null default now()
);

comment on column roost.cron.source is
    'code: workers declare the entry. database: add_cron has added it.';
comment on column roost.cron.args_from_code is
    'The worker that fires makes the args, with a function of its code.';
comment on column roost.cron.start_at is
    'When the entry began to be served, if it runs on start and has not been fired since.';
comment on column roost.cron.fingerprint is 'The declaration in the code that the row shows.';
comment on column roost.cron.fingerprints is
    'The declarations of the entry, in the order in which they were first seen.';

-- Walked by firing. By task first: entries whose task no worker knows stay due and are not walked over.
create index cron_due on roost.cron (task, next_tick_at)
where source = 'database' and paused_at is null;

-- Which worker declares which entry. A worker renews its rows, and deletes them when it stops.
create table roost.cron_declarations (
    name roost.name not null,
    worker text not null,
    fingerprint text not null,
    declared_at roost.instant not null default now(),
    primary key (name, worker)
);
