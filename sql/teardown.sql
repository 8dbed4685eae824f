-- Everything that setup made under its usual names, taken away again: `cdc-tracker teardown` does this. Stop the worker first.
-- What the slot still held for it is lost.

SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'cdc_tracker';

DROP PUBLICATION IF EXISTS cdc_tracker;
DROP PUBLICATION IF EXISTS cdc_tracker_inserts;

-- The outbox with its rows, and the functions.
DROP SCHEMA IF EXISTS cdc_tracker CASCADE;

-- The role, if nothing else uses it:
-- DROP OWNED BY cdc_tracker; DROP ROLE cdc_tracker;
