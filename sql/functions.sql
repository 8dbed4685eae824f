-- Events without a table: each call writes one logical message to the write-ahead log. The event is sent if the transaction commits,
-- and discarded if it rolls back. This script may be run again at any time.
--
--     SELECT cdc_tracker.track('Order Paid', '42', '{"revenue": 9.50}');
--
-- The functions run with the caller's rights, and only call pg_logical_emit_message, which every role may do.

CREATE SCHEMA IF NOT EXISTS cdc_tracker;
GRANT USAGE ON SCHEMA cdc_tracker TO PUBLIC;

-- Any of the six types. The other functions are short forms of this one.
CREATE OR REPLACE FUNCTION cdc_tracker.emit(
    type         text,
    event        text        DEFAULT NULL,   -- the name, of track, page and screen
    user_id      text        DEFAULT NULL,
    properties   jsonb       DEFAULT NULL,   -- the traits, of identify and group
    anonymous_id text        DEFAULT NULL,
    group_id     text        DEFAULT NULL,
    previous_id  text        DEFAULT NULL,
    context      jsonb       DEFAULT NULL,
    "timestamp"  timestamptz DEFAULT NULL,   -- when it happened; by default the time of the commit
    message_id   text        DEFAULT NULL    -- an id of your own, if the event must arrive once however often it is sent
) RETURNS pg_lsn LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    max_bytes CONSTANT int := 1000000;
    body_name CONSTANT text := CASE WHEN type IN ('identify', 'group') THEN 'traits' ELSE 'properties' END;
    payload   text;
    content   bytea;
BEGIN
    IF type IS NULL OR type NOT IN ('track', 'identify', 'group', 'alias', 'page', 'screen') THEN
        RAISE EXCEPTION 'cdc_tracker: unknown type of event: %', coalesce(type, 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'One of track, identify, group, alias, page, screen.';
    END IF;
    IF type IN ('track', 'page', 'screen') AND coalesce(btrim(event), '') = '' THEN
        RAISE EXCEPTION 'cdc_tracker: % needs the name of the event', type USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF coalesce(user_id, '') = '' AND coalesce(anonymous_id, '') = '' THEN
        RAISE EXCEPTION 'cdc_tracker: % needs user_id or anonymous_id', type USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF type = 'group' AND coalesce(group_id, '') = '' THEN
        RAISE EXCEPTION 'cdc_tracker: group needs group_id' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF type = 'alias' AND (coalesce(previous_id, '') = '' OR coalesce(user_id, '') = '') THEN
        RAISE EXCEPTION 'cdc_tracker: alias needs previous_id and user_id' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF jsonb_typeof(properties) <> 'object' OR jsonb_typeof(context) <> 'object' THEN
        RAISE EXCEPTION 'cdc_tracker: % must be a JSON object',
            CASE WHEN jsonb_typeof(properties) <> 'object' THEN body_name ELSE 'context' END
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF message_id IS NOT NULL AND length(message_id) NOT BETWEEN 1 AND 100 THEN
        RAISE EXCEPTION 'cdc_tracker: message_id must have 1 to 100 characters' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF NOT isfinite("timestamp") THEN
        RAISE EXCEPTION 'cdc_tracker: timestamp must be finite' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT jsonb_object_agg(given.key, given.value)::text INTO payload
      FROM (VALUES ('type', to_jsonb(type)), ('event', to_jsonb(event)), ('messageId', to_jsonb(message_id)),
                   ('userId', to_jsonb(user_id)), ('anonymousId', to_jsonb(anonymous_id)), ('groupId', to_jsonb(group_id)),
                   ('previousId', to_jsonb(previous_id)), (body_name, properties), ('context', context),
                   ('timestamp', to_jsonb("timestamp"))) AS given (key, value)
     WHERE given.value IS NOT NULL;
    IF octet_length(payload) > max_bytes THEN
        RAISE EXCEPTION 'cdc_tracker: the event has % bytes; at most % are taken', octet_length(payload), max_bytes
            USING ERRCODE = 'program_limit_exceeded', HINT = 'Send a reference to large contents instead of the contents.';
    END IF;
    IF getdatabaseencoding() IN ('UTF8', 'SQL_ASCII') THEN
        RETURN pg_logical_emit_message(true, 'cdc_tracker', payload);
    END IF;
    -- The bytes of a message are not converted on their way: they are written as UTF-8, marked by a byte order mark.
    BEGIN
        content := decode('EFBBBF', 'hex') || convert_to(payload, 'UTF8');
    EXCEPTION WHEN untranslatable_character OR character_not_in_repertoire THEN
        content := convert_to(payload, getdatabaseencoding());  -- parked when it is read; the caller's transaction continues
    END;
    RETURN pg_logical_emit_message(true, 'cdc_tracker', content);
END $$;

CREATE OR REPLACE FUNCTION cdc_tracker.track(
    event text, user_id text DEFAULT NULL, properties jsonb DEFAULT NULL, anonymous_id text DEFAULT NULL, context jsonb DEFAULT NULL,
    "timestamp" timestamptz DEFAULT NULL, message_id text DEFAULT NULL
) RETURNS pg_lsn LANGUAGE sql AS $$
    SELECT cdc_tracker.emit('track', event, user_id, properties, anonymous_id, NULL, NULL, context, "timestamp", message_id)
$$;

CREATE OR REPLACE FUNCTION cdc_tracker.identify(
    user_id text, traits jsonb DEFAULT NULL, anonymous_id text DEFAULT NULL, context jsonb DEFAULT NULL,
    "timestamp" timestamptz DEFAULT NULL, message_id text DEFAULT NULL
) RETURNS pg_lsn LANGUAGE sql AS $$
    SELECT cdc_tracker.emit('identify', NULL, user_id, traits, anonymous_id, NULL, NULL, context, "timestamp", message_id)
$$;

CREATE OR REPLACE FUNCTION cdc_tracker."group"(
    group_id text, user_id text DEFAULT NULL, traits jsonb DEFAULT NULL, anonymous_id text DEFAULT NULL, context jsonb DEFAULT NULL,
    "timestamp" timestamptz DEFAULT NULL, message_id text DEFAULT NULL
) RETURNS pg_lsn LANGUAGE sql AS $$
    SELECT cdc_tracker.emit('group', NULL, user_id, traits, anonymous_id, group_id, NULL, context, "timestamp", message_id)
$$;

CREATE OR REPLACE FUNCTION cdc_tracker.alias(
    previous_id text, user_id text, context jsonb DEFAULT NULL, "timestamp" timestamptz DEFAULT NULL, message_id text DEFAULT NULL
) RETURNS pg_lsn LANGUAGE sql AS $$
    SELECT cdc_tracker.emit('alias', NULL, user_id, NULL, NULL, NULL, previous_id, context, "timestamp", message_id)
$$;
