-- Cron entries as code declares them, and where each stands.

create table roost.cron (
    name text primary key,
    expression text not null,
    timezone text,
    task text not null,
    queue text not null,
    args jsonb not null,
    priority integer not null,
    max_attempts integer not null,
    tags text[],
    timeout_seconds integer,
    misfire text not null check (misfire in ('skip', 'last', 'all')),
    overlap text not null check (overlap in ('allow', 'skip')),
    jitter double precision not null check (jitter >= 0),
    next_tick_at timestamptz not null,
    last_tick_at timestamptz,
    last_job_id bigint,
    paused_at timestamptz,
    -- Renewed by every worker whose code has the entry; without it the entry is stale.
    declared_at timestamptz not null default now(),
    inserted_at timestamptz not null default now()
);
