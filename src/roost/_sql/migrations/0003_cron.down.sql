drop table roost.cron;
