-- What `cdc-tracker setup` makes for the tables that the mappings name; `setup --print-sql` prints it with your tables. With
-- pgoutput both publications always exist, and a table is in one of them only; wal2json needs none.

-- Tables of which a mapping reads updates or deletes. PostgreSQL refuses the application's own updates and deletes of a published
-- table that has no replica identity (a primary key that is not DEFERRABLE, USING INDEX, or FULL): no such table is in here. It
-- publishes the operations that are mapped, and no others.
CREATE PUBLICATION cdc_tracker WITH (publish = 'insert, update, delete', publish_via_partition_root = true);

-- All other tables, and the outbox: inserts, which PostgreSQL never refuses.
CREATE PUBLICATION cdc_tracker_inserts FOR TABLE ONLY cdc_tracker.outbox
    WITH (publish = 'insert', publish_via_partition_root = true);

-- The slot comes last: it gives what commits after it was made, and finds the publications as they were then.
-- SELECT pg_create_logical_replication_slot('cdc_tracker', 'pgoutput');
