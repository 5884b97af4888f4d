drop table roost.jobs_archive;
drop table roost.queues;
drop table roost.starts;
drop table roost.limits;
drop table roost.dependencies;
drop index roost.jobs_results;
drop index roost.jobs_finished;
drop index roost.jobs_claim_limited;
drop index roost.jobs_claim;
alter table roost.jobs drop column limited, drop column has_children;
create index jobs_claim on roost.jobs (queue, priority, scheduled_at, id)
where state in ('available', 'retryable') and pending_parents = 0;
