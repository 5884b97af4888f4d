-- May enqueue, and nothing else: it calls functions and has no rights on the tables.
grant usage on schema roost to roost_producer;
grant execute on function
    roost.enqueue, roost.insert_job, roost.insert_jobs, roost.insert_homogeneous, roost.insert_dependent,
    roost.insert_or_dispatch, roost.insert_unique, roost.fill_options, roost.active_job
    to roost_producer;
-- Only for wait_for, which shows the results and errors of any job.
grant execute on function roost.await_job to roost_producer;
-- Only for an application that adds and removes cron entries.
grant execute on function roost.add_cron, roost.remove_cron to roost_producer;

-- May run a worker. One whose handlers enqueue is also a member of roost_producer.
grant usage on schema roost to roost_worker;
grant select on all tables in schema roost to roost_worker;
grant update on roost.jobs to roost_worker;
grant insert, update, delete on roost.workers to roost_worker;
grant insert, update on roost.limits, roost.tasks to roost_worker;
grant insert, update, delete on roost.starts, roost.ready_keys to roost_worker;
grant insert, delete on roost.rollups to roost_worker;
grant insert, delete on roost.key_wakes to roost_worker;
grant delete on roost.dependencies to roost_worker;
grant update, delete on roost.unique_holds to roost_worker;
-- Only for a worker that fires cron entries; start others with run_cron=False.
grant insert on roost.jobs to roost_worker;
grant insert, update on roost.cron to roost_worker;
grant insert, update, delete on roost.cron_declarations to roost_worker;
-- Only for a worker that archives or deletes ended jobs.
grant delete on roost.jobs to roost_worker;
grant insert, update, delete on roost.jobs_archive to roost_worker;

-- May read: get, status, explain, events, doctor, list_jobs, list_queues, list_workers, list_tasks,
-- list_limits, list_cron, overview.
grant usage on schema roost to roost_viewer;
grant select on all tables in schema roost to roost_viewer;

-- May read, cancel, retry, requeue, change and delete jobs, pause and resume queues and cron entries, add
-- and remove cron entries, and change limits.
grant usage on schema roost to roost_operator;
grant select on all tables in schema roost to roost_operator;
grant insert, update on roost.jobs, roost.queues, roost.cron to roost_operator;
grant insert on roost.key_wakes to roost_operator;
grant execute on function roost.add_cron, roost.remove_cron to roost_operator;
grant insert, update, delete on roost.dependencies to roost_operator;
grant delete on roost.jobs, roost.jobs_archive to roost_operator;
grant update, delete on roost.unique_holds to roost_operator;
grant execute on function roost.set_limit, roost.clear_limit to roost_operator;
