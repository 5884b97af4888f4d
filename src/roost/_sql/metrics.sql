-- name: record_scrape
-- $1 worker id, $2 seconds after which another worker's scrape counts no more. Records that this
-- worker's metrics are scraped, and says whether it is to export the numbers of the database: it is
-- the oldest worker that is scraped. Returns nothing when its row is gone.
with own as (
    update roost.workers
    set scraped_at = now()
    where id = $1::bigint
    returning id
)
select not exists (
    select
    from roost.workers as older
    where older.id < own.id
        and older.scraped_at > now() - make_interval(secs => $2::double precision)
)
from own;

-- name: workers_of_queues
select queues, expires_at > now()
from roost.workers;
