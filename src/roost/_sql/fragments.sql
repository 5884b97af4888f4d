-- fragment: claimable
-- A waiting job that a claim finds in the index jobs_claim, now or when it is due.
job.state in ('available', 'retryable')
and job.pending_parents = 0
and not job.limited

-- fragment: claimable_limited
-- The same for a job of a limited task: the index jobs_claim_limited.
job.state in ('available', 'retryable')
and job.pending_parents = 0
and job.limited

-- fragment: claimable_keyed
-- The same for a job with a limit key: the index jobs_claim_keyed.
{{claimable_limited}}
and job.limit_key is not null

-- fragment: claimed_columns
-- What a worker gets of a job that it leases, in the order of roost._ops.claim.ClaimedJob.
job.id, job.lease_no, job.queue, job.task,
case
    -- The stored size is cheap to read. Only larger args are unpacked to be measured.
    when pg_catalog.pg_column_size(job.args) < 8192
        or pg_catalog.pg_column_size(job.args || jsonb '{}') <= 33554432
        then job.args::text
    else pg_catalog.format('"%s"', pg_catalog.pg_column_size(job.args || jsonb '{}'))
end as args,
job.priority, job.attempt, job.max_attempts,
-- Microseconds since 1970: most handlers need no datetime, so the worker makes none. As a double,
-- which is exact beyond the year 2200: extract's numeric takes three times as long.
(date_part('epoch', job.scheduled_at) * 1000000::double precision)::bigint as scheduled_at,
(date_part('epoch', job.attempted_at) * 1000000::double precision)::bigint as attempted_at,
job.errors::text as errors, job.unique_key,
(date_part('epoch', job.inserted_at) * 1000000::double precision)::bigint as inserted_at,
job.tags, job.timeout_seconds, job.cancel_requested, job.depends_on,
job.metadata::text as metadata

-- fragment: ended_at
-- When an ended job ended; with the state, the index jobs_finished.
greatest(job.completed_at, job.cancelled_at, job.discarded_at)

-- fragment: holds_lease
-- Whether `job` is executing under the lease that `verdict` names. The state is hidden from the
-- planner: for a table that was analyzed while nothing ran it would walk all executing jobs for each
-- verdict.
job.id = verdict.id
and job.worker_id = verdict.worker_id
and job.lease_no = verdict.lease_no
and job.state || '' = 'executing'

-- fragment: job_columns
-- What users see of a job, in the order of the fields of roost.Job.
job.id, job.queue, job.task, job.args::text, job.state, job.priority, job.attempt,
job.max_attempts, job.scheduled_at, job.attempted_at, job.completed_at, job.cancelled_at,
job.discarded_at, job.errors::text, job.unique_key, job.inserted_at, job.tags,
job.timeout_seconds, job.cancel_requested, job.result::text, job.depends_on, job.metadata::text

-- fragment: kept_columns
-- What a job keeps on its way into the archive and back.
id, scheduled_at, inserted_at, attempted_at, completed_at, cancelled_at, discarded_at, worker_id,
lease_no, priority, attempt, max_attempts, timeout_seconds, state, queue, task, unique_key, args,
metadata, tags, depends_on, errors, result, limited, unique_waiting,
limit_key

-- fragment: new_job_fields
-- The fields of an encoded job; see roost._model.encoding.
queue text,
task text,
args jsonb,
priority integer,
max_attempts integer,
scheduled_at timestamptz,
schedule_in double precision,
unique_key text,
tags text[],
timeout_seconds integer,
metadata jsonb,
limit_key text

-- fragment: new_job
-- An encoded job (`encoded`) with what its row has besides. Not now(): the caller's transaction may
-- have begun long ago.
encoded.*,
coalesce(
    encoded.scheduled_at,
    statement_timestamp() + make_interval(secs => encoded.schedule_in),
    statement_timestamp()
) as due_at,
exists (select from roost.limits where limits.task = encoded.task) as limited

-- fragment: new_job_columns
-- The columns that an insert fills besides args and unique_key, which differ within a batch.
queue, task, priority, max_attempts, scheduled_at, inserted_at, tags, timeout_seconds, metadata,
limited

-- fragment: new_job_values
-- The same of `new_job`, a row as the fragment new_job makes it.
new_job.queue, new_job.task, new_job.priority, new_job.max_attempts, new_job.due_at,
statement_timestamp(), new_job.tags, new_job.timeout_seconds, new_job.metadata, new_job.limited

-- fragment: new_limit_key
-- The limit key of `new_job`.
case when new_job.limited then (
    select roost.limit_key(limits.limit_by, new_job.args, new_job.limit_key)
    from roost.limits
    where limits.task = new_job.task
) else new_job.limit_key end

-- fragment: wake_inserted
-- A branch of the CTE "notified", after an insert: have the limit keys of "inserted" looked at.
select roost.wake_key(task, limit_key, queue, min(scheduled_at))
from inserted
where limited
    and limit_key is not null
group by task, limit_key, queue

-- fragment: limit_key
-- The limit key of a live job, as its args and its task's limits are now.
(
    select roost.limit_key(limits.limit_by, job.args, job.limit_key)
    from roost.limits
    where limits.task = job.task
)

-- fragment: renewed_limit_key
-- The same after a change of limit_by: a key that a function has given is kept only for a function.
(
    select case
        when limits.limit_by is not null then roost.limit_key(limits.limit_by, job.args, job.limit_key)
    end
    from roost.limits
    where limits.task = job.task
)

-- fragment: mark_again
-- Have the jobs of a task marked again if `excluded` has another limit_by: transactions that can't see it
-- insert jobs with the old key.
has_stale_keys = known.has_stale_keys or known.limit_by is distinct from excluded.limit_by,
all_marked = known.all_marked and known.limit_by is not distinct from excluded.limit_by,
snapshots_gone = known.snapshots_gone and known.limit_by is not distinct from excluded.limit_by,
published_by = case
    when known.limit_by is distinct from excluded.limit_by then pg_current_xact_id()
    else known.published_by
end

-- fragment: unless_key_is_taken
-- The clause of an insert into roost.jobs that leaves a job out if another job holds its unique key.
on conflict (unique_key, (case when unique_waiting and lease_no > 0 then id else 0 end))
    where unique_key is not null and state in ('available', 'executing', 'retryable')
    do nothing

-- fragment: key_is_unused
-- Whether no active job has the unique key that it held until its first claim. The clause above does
-- not see these. Not "exists": the planner may answer that by a hash of all active jobs.
case
    when new_job.unique_key is null then true
    -- To look for each key takes a tenth of the time of a batch.
    when not exists (select from roost.unique_waiting_used) then true
    else (
        select started.id
        from roost.jobs as started
        where started.unique_key = new_job.unique_key
            and started.unique_waiting
            and started.lease_no > 0
            and started.state in ('available', 'executing', 'retryable')
        limit 1
    ) is null
end

-- fragment: read_new_job
-- Statements of a function: put the one job of `content` into the variable new_job; return if its unique
-- key is taken.
select
    {{new_job}}
into new_job
from jsonb_to_record(content::jsonb -> 0) as encoded (
    {{new_job_fields}}
);
-- A query in a condition or in the insert takes 20 to 30 microseconds, also if it is not run.
if new_job.limited then
    new_job.limit_key := {{new_limit_key}};
end if;
if new_job.unique_key is not null then
    if not (
        {{key_is_unused}}
    ) then
        return;
    end if;
end if;

-- fragment: keeps_key_from_job
-- Whether `other` keeps an ended `job` from being retried. With unique_while = 'waiting' one may wait
-- while one runs.
other.unique_key = job.unique_key
    and other.id <> job.id
    and other.state in ('available', 'executing', 'retryable')
    and not (
        job.unique_waiting
        and other.unique_waiting
        and other.lease_no > 0
        and other.state = 'executing'
    )

-- fragment: counted
-- What the index jobs_counted holds.
(job.state in ('retryable', 'discarded') or job.pending_parents > 0)

-- fragment: matches
-- Whether `job`, live or archived, fits a filter: $1 to $12 are those of
-- roost._model.job_filter.CheckedFilter. Plan it for each call (force_custom_plan): a parameter that is
-- null then costs nothing, and the others can use an index.
($1::bigint[] is null or job.id = any ($1::bigint[]))
and job.state = any ($2::text[])
and ($3::text[] is null or job.queue = any ($3::text[]))
and ($4::text[] is null or job.task = any ($4::text[]))
and ($5::text[] is null or job.tags operator(pg_catalog.&&) $5::text[])
and ($6::text is null or job.unique_key = $6::text)
and ($7::bigint is null or job.worker_id = $7::bigint)
and (
    $8::text is null
    or exists (
        select
        from jsonb_array_elements(job.errors) as recorded (error)
        where strpos(lower(recorded.error ->> text 'error'), lower($8::text)) > 0
    )
)
and ($9::timestamptz is null or job.inserted_at >= $9::timestamptz)
and ($10::timestamptz is null or job.inserted_at < $10::timestamptz)
and ($11::timestamptz is null or {{ended_at}} >= $11::timestamptz)
and ($12::timestamptz is null or {{ended_at}} < $12::timestamptz)
