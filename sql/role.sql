-- The role that cdc-tracker connects as, with the rights that it needs. Run as a superuser or as the database's owner, in the
-- captured database:
--
--     cdc-tracker sql role | psql -d shop
--
-- Then give it a password: \password cdc_tracker

DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'cdc_tracker') THEN
        CREATE ROLE cdc_tracker LOGIN;
    END IF;
END $$;

-- To read from a replication slot. On Amazon RDS and Aurora: GRANT rds_replication TO cdc_tracker;
-- on Azure and Google Cloud SQL the ALTER ROLE below works as it is.
ALTER ROLE cdc_tracker REPLICATION;

DO $$ BEGIN
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO cdc_tracker', current_database());
END $$;

-- `run` needs no more: the stream requires no rights on tables.

-- To read tables, for mappings that have `backfill`. Once for each schema:
-- GRANT USAGE ON SCHEMA shop TO cdc_tracker;
-- GRANT SELECT ON ALL TABLES IN SCHEMA shop TO cdc_tracker;          -- or single tables: GRANT SELECT ON shop.orders TO cdc_tracker;
-- ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT SELECT ON TABLES TO cdc_tracker;

-- `setup` creates a schema and publications. Only a table's owner can publish it: let the owner run what
-- `cdc-tracker setup --print-sql` prints, or grant these rights to the role while setup runs:
-- GRANT CREATE ON DATABASE shop TO cdc_tracker;
-- GRANT shop_owner TO cdc_tracker;                                    -- afterwards: REVOKE shop_owner FROM cdc_tracker;

-- To show which session reads from a slot, not only its pid:
-- GRANT pg_read_all_stats TO cdc_tracker;

-- The application, if it writes to the outbox:
-- GRANT USAGE ON SCHEMA cdc_tracker TO app;
-- GRANT INSERT, SELECT, DELETE ON cdc_tracker.outbox TO app;
