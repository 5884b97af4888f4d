-- Everything between enqueue and end: parents and children, limits, pauses, the archive.

-- A parent whose children wait for it is settled together with them; every other job is not asked.
alter table roost.jobs add column has_children boolean not null default false;

-- Jobs of a limited task stand in an index of their own, so that no other claim walks over them.
alter table roost.jobs add column limited boolean not null default false;

drop index roost.jobs_claim;

create index jobs_claim on roost.jobs (queue, priority, scheduled_at, id)
where state in ('available', 'retryable') and pending_parents = 0 and not limited;

create index jobs_claim_limited on roost.jobs (queue, task, priority, scheduled_at, id)
where state in ('available', 'retryable') and pending_parents = 0 and limited;

-- What the archive and the expiry of results walk, oldest end first.
create index jobs_finished on roost.jobs (greatest(completed_at, cancelled_at, discarded_at))
where state in ('completed', 'discarded', 'cancelled');

-- Only what has a result, so that nobody walks over results that are gone.
create index jobs_results on roost.jobs (completed_at)
where state = 'completed' and result is not null;

-- One row for each child that still waits for a parent; gone when the parent has ended.
create table roost.dependencies (
    parent_id bigint not null,
    child_id bigint not null,
    primary key (parent_id, child_id)
);

-- The limits that workers have published. The row is the lock under which a task's jobs are claimed.
create table roost.limits (
    task text primary key,
    rate_per_minute integer check (rate_per_minute >= 1),
    max_concurrency integer check (max_concurrency >= 1),
    -- Jobs enqueued by transactions that could not see the row yet are marked later; see upkeep.sql.
    published_by xid8 not null default pg_current_xact_id(),
    snapshots_gone boolean not null default false,
    all_marked boolean not null default false
);

-- When jobs of a rate-limited task were started, as long as it matters.
create table roost.starts (
    task text not null,
    started_at timestamptz not null
);

create index starts_window on roost.starts (task, started_at);

create table roost.queues (
    name text primary key,
    paused_at timestamptz
);

-- The same columns without the indexes and defaults of a live table.
create table roost.jobs_archive (like roost.jobs);

alter table roost.jobs_archive add primary key (id);

create index jobs_archive_results on roost.jobs_archive (completed_at)
where result is not null;

alter table roost.jobs_archive add column archived_at timestamptz not null default now();
