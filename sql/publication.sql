-- What `cdc-tracker setup` creates for the mapped tables; `setup --print-sql` prints it with your tables. With pgoutput both
-- publications always exist, and each table is in one of them; wal2json needs none.

-- Tables of which a mapping reads updates or deletes, with the mapped operations only. PostgreSQL refuses updates and deletes of a
-- published table without a replica identity (a primary key that is not DEFERRABLE, USING INDEX, or FULL): no such table is here.
CREATE PUBLICATION cdc_tracker WITH (publish = 'insert, update, delete', publish_via_partition_root = true);

-- All other tables, and the outbox: inserts, which PostgreSQL never refuses.
CREATE PUBLICATION cdc_tracker_inserts FOR TABLE ONLY cdc_tracker.outbox
    WITH (publish = 'insert', publish_via_partition_root = true);

-- The slot comes last: it decodes each change with the publications as they were when it committed.
-- SELECT pg_create_logical_replication_slot('cdc_tracker', 'pgoutput');
