drop table roost.workers;
drop table roost.jobs;
