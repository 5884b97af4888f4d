-- name: insert_job
-- All of this file are calls of functions of the schema, with parameters of the types that they
-- declare: they run on connections of callers, with whatever search_path these have, and producers
-- need no rights on the tables. What $1 holds: see roost._model.encoding.
--
-- Null: an active job has the unique key.
select roost.insert_job($1::text);

-- name: insert_or_dispatch
-- As insert_job, for a transaction of its own: a worker that has offered to be given a job gets this
-- one, leased and named in the worker's row, without a claim.
select roost.insert_or_dispatch($1::text);

-- name: insert_jobs
select roost.insert_jobs($1::text);

-- name: insert_homogeneous
-- The same for jobs that differ only in args and unique keys. $1: a JSON object of "common", a record
-- without these, "args" and, if there are any, "keys", arrays of one entry a job. The order of the ids
-- is that of the jobs; of several with one key the first is kept.
select new_ids, new_keys
from roost.insert_homogeneous($1::text);

-- name: find_active_by_unique_key
select roost.active_job($1::text);

-- name: insert_dependent
select new_ids, missing
from roost.insert_dependent($1::text);
