-- What `cdc-tracker setup` makes for the tables that the mappings name; `setup --print-sql` prints it with your tables. Both
-- publications always exist. A table is in one of them only.

-- Tables with a replica identity (a primary key, USING INDEX, or FULL), and the outbox.
CREATE PUBLICATION cdc_tracker FOR TABLE cdc_tracker.outbox
    WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);

-- Tables without one, mapped for inserts only: in the first publication, the application's updates and deletes of them would fail.
CREATE PUBLICATION cdc_tracker_inserts WITH (publish = 'insert', publish_via_partition_root = true);

-- The slot comes last: it gives what commits after it was made, and finds the publications as they were then.
-- SELECT pg_create_logical_replication_slot('cdc_tracker', 'pgoutput');
