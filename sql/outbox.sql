-- The outbox table: a row inserted in the application's transaction becomes an event. The row may be deleted at once, even in the
-- same transaction, because it is read from the write-ahead log. This script may be run again at any time.

CREATE SCHEMA IF NOT EXISTS cdc_tracker;

CREATE TABLE IF NOT EXISTS cdc_tracker.outbox (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),   -- the event's id is derived from it
    type         text NOT NULL DEFAULT 'track'
                 CHECK (type IN ('track', 'identify', 'group', 'alias', 'page', 'screen')),
    event        text,                                         -- the name, of track, page and screen
    user_id      text,
    anonymous_id text,
    group_id     text,
    previous_id  text,
    properties   jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(properties) = 'object'),   -- the traits, of identify and group
    context      jsonb CHECK (jsonb_typeof(context) = 'object'),
    "timestamp"  timestamptz,                                  -- when it happened; by default created_at
    created_at   timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT outbox_has_a_name CHECK (type NOT IN ('track', 'page', 'screen') OR event <> '' AND event IS NOT NULL),
    CONSTRAINT outbox_has_an_identity CHECK (coalesce(user_id, '') <> '' OR coalesce(anonymous_id, '') <> ''),
    CONSTRAINT outbox_group_is_named CHECK (type <> 'group' OR coalesce(group_id, '') <> ''),
    CONSTRAINT outbox_alias_has_both_ids CHECK (type <> 'alias' OR coalesce(previous_id, '') <> '' AND coalesce(user_id, '') <> '')
);

COMMENT ON TABLE cdc_tracker.outbox IS 'Events for cdc-tracker. Rows are read from the write-ahead log and may be deleted at any time.';

-- The application needs: GRANT USAGE ON SCHEMA cdc_tracker TO app; GRANT INSERT, SELECT, DELETE ON cdc_tracker.outbox TO app;
