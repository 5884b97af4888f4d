drop function roost.enqueue;
alter table roost.jobs_archive drop column awaited;
alter table roost.jobs drop column awaited;
