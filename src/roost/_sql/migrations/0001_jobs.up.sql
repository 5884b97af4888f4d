-- The table of jobs and the table of workers.
--
-- Columns stand in order of alignment (eight bytes, four, one, then the variable ones), which
-- saves padding in every row. Empty errors, tags, depends_on and metadata are null: a row that
-- doesn't use them pays one bit each.

create table roost.jobs (
    id bigint generated always as identity primary key,
    scheduled_at timestamptz not null default now(),
    inserted_at timestamptz not null default now(),
    attempted_at timestamptz,
    completed_at timestamptz,
    cancelled_at timestamptz,
    discarded_at timestamptz,
    worker_id bigint,
    lease_no integer not null default 0,
    priority integer not null default 0,
    attempt integer not null default 0,
    max_attempts integer not null default 20,
    timeout_seconds integer,
    pending_parents integer not null default 0,
    cancel_requested boolean not null default false,
    state text not null default 'available',
    queue text not null default 'default',
    task text not null,
    unique_key text,
    args jsonb not null default '{}',
    metadata jsonb,
    tags text[],
    depends_on bigint[],
    errors jsonb,
    result jsonb,

    constraint jobs_state_check check (
        state in ('available', 'executing', 'retryable', 'completed', 'discarded', 'cancelled')
    ),
    constraint jobs_names_check check (queue <> '' and task <> ''),
    constraint jobs_attempts_check check (max_attempts >= 1 and attempt >= 0),
    constraint jobs_timeout_check check (timeout_seconds >= 1),
    constraint jobs_scheduled_at_check check (
        scheduled_at > '0001-01-02Z' and scheduled_at < '9999-12-30Z'
    ),
    constraint jobs_args_check check (jsonb_typeof(args) = 'object'),
    constraint jobs_metadata_check check (jsonb_typeof(metadata) = 'object'),
    constraint jobs_errors_check check (jsonb_typeof(errors) = 'array'),
    constraint jobs_tags_check check (array_position(tags, null) is null),
    constraint jobs_pending_parents_check check (pending_parents >= 0)
)
with (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
);

comment on column roost.jobs.worker_id is
    'The worker incarnation that holds the lease while executing, and that ran the last attempt after.';
comment on column roost.jobs.lease_no is
    'Counts claims and is never given back: with id and worker_id it names one lease.';

-- What a claim walks: waiting jobs only, in the order in which they run.
create index jobs_claim on roost.jobs (queue, priority, scheduled_at, id)
where state in ('available', 'retryable') and pending_parents = 0;

-- At most one active job has a given key.
create unique index jobs_unique_key on roost.jobs (unique_key)
where unique_key is not null and state in ('available', 'executing', 'retryable');

-- What a rescue walks: only what runs right now.
create index jobs_executing on roost.jobs (worker_id)
where state = 'executing';

create table roost.workers (
    id bigint generated always as identity primary key,
    name text not null,
    queues text[] not null,
    concurrency integer not null,
    started_at timestamptz not null default now(),
    heartbeat_at timestamptz not null default now(),
    expires_at timestamptz not null
)
with (fillfactor = 50);

comment on table roost.workers is
    'One row a worker incarnation. After expires_at its leases may be taken by anybody.';
