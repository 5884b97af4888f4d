-- name: insert_job
-- Statements of this file only call functions of the schema, with exactly the declared types. They run
-- on the callers' connections with any search_path, and producers need no rights on the tables. For the
-- JSON in $1 see roost._model.encoding.
--
-- Returns null if an active job has the unique key.
select roost.insert_job($1::text);

-- name: insert_or_dispatch
-- As insert_job, only in a transaction of its own. A worker that has granted a credit gets the job without
-- a claim.
select roost.insert_or_dispatch($1::text);

-- name: insert_jobs
select roost.insert_jobs($1::text);

-- name: insert_homogeneous
-- For jobs that differ only in args and unique keys. $1 a JSON object: "common", the encoded job without
-- these; "args" and, if there are any, "keys", arrays with one entry a job. The ids have the order of the
-- jobs. Of several jobs with one key the first is kept.
select new_ids, new_keys
from roost.insert_homogeneous($1::text);

-- name: fill_and_insert_job
-- For a task that the client does not know; see roost.fill_options. The next five are for such tasks, too.
select roost.insert_job(roost.fill_options($1::text));

-- name: fill_and_insert_or_dispatch
select roost.insert_or_dispatch(roost.fill_options($1::text));

-- name: fill_and_insert_jobs
select roost.insert_jobs(roost.fill_options($1::text));

-- name: fill_and_insert_homogeneous
select new_ids, new_keys
from roost.insert_homogeneous(roost.fill_options($1::text));

-- name: fill_and_insert_dependent
select new_ids, missing
from roost.insert_dependent(roost.fill_options($1::text));

-- name: fill_and_insert_unique
select job_ids, missing, refused_key, refused_id, refusal
from roost.insert_unique(roost.fill_options($1::text), $2::text);

-- name: insert_unique
-- For jobs with on_conflict ($2), unique_while, unique_for or unique_by.
select job_ids, missing, refused_key, refused_id, refusal
from roost.insert_unique($1::text, $2::text);

-- name: find_active_by_unique_key
select roost.active_job($1::text);

-- name: insert_dependent
select new_ids, missing
from roost.insert_dependent($1::text);
