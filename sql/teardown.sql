-- Removes everything that setup created under its default names, as `cdc-tracker teardown` does. Stop the worker first. Changes
-- that the worker has not read from the slot are lost.

SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'cdc_tracker';

DROP PUBLICATION IF EXISTS cdc_tracker;
DROP PUBLICATION IF EXISTS cdc_tracker_inserts;

-- The outbox with its rows, and the functions.
DROP SCHEMA IF EXISTS cdc_tracker CASCADE;

-- The role, if nothing else uses it:
-- DROP OWNED BY cdc_tracker; DROP ROLE cdc_tracker;
