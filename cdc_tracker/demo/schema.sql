-- The demo shop. REPLICA IDENTITY FULL where a mapping looks at the old row.

CREATE SCHEMA shop;

CREATE TYPE shop.plan AS ENUM ('basic', 'family', 'pro');

CREATE TABLE shop.users (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    anonymous_id uuid NOT NULL,
    email        text NOT NULL,
    name         text NOT NULL,
    country      text NOT NULL,
    about        text,
    created_at   timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE shop.users REPLICA IDENTITY FULL;
-- Never compressed: a long text then always lies outside the row, and an update that leaves it alone does not log it.
ALTER TABLE shop.users ALTER COLUMN about SET STORAGE EXTERNAL;

-- No foreign key to users: an order outlives the account.
CREATE TABLE shop.orders (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id      bigint NOT NULL,
    status       text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'paid', 'refunded')),
    currency     text NOT NULL DEFAULT 'EUR',
    total        numeric(12, 2) NOT NULL,
    items        jsonb NOT NULL,
    gift_message text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    paid_at      timestamptz,
    refunded_at  timestamptz
);
ALTER TABLE shop.orders REPLICA IDENTITY FULL;
ALTER TABLE shop.orders ALTER COLUMN gift_message SET STORAGE EXTERNAL;

CREATE TABLE shop.order_items (
    order_id bigint NOT NULL REFERENCES shop.orders,
    line     integer NOT NULL,
    user_id  bigint NOT NULL,
    sku      text NOT NULL,
    quantity integer NOT NULL CHECK (quantity > 0),
    price    numeric(12, 2) NOT NULL,
    PRIMARY KEY (order_id, line)
);

CREATE TABLE shop.subscriptions (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id      bigint NOT NULL,
    plan         shop.plan NOT NULL,
    status       text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'cancelled')),
    price        numeric(12, 2) NOT NULL,
    renewals     integer NOT NULL DEFAULT 0,
    paid_until   date NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT now(),
    cancelled_at timestamptz
);
ALTER TABLE shop.subscriptions REPLICA IDENTITY FULL;

-- What the tables above no longer show at the end: users who were renamed or deleted, messages that never were a row.
-- Written in the transaction that it tells of, so it is rolled back with it. No mapping names it; only the oracle reads it.
CREATE TABLE shop.audit (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    what    text NOT NULL,
    user_id text NOT NULL,
    facts   jsonb NOT NULL
);

CREATE FUNCTION shop.audit_user() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    person shop.users := CASE WHEN tg_op = 'DELETE' THEN old ELSE new END;
BEGIN
    INSERT INTO shop.audit (what, user_id, facts)
    VALUES (lower(tg_op), person.id::text, jsonb_build_object(
        'anonymousId', person.anonymous_id,
        'email_hash', encode(sha256(convert_to(lower(person.email), 'UTF8')), 'hex'),
        'name', person.name,
        'country', person.country,
        'about_length', length(person.about)
    ));
    RETURN NULL;
END
$$;

CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON shop.users
    FOR EACH ROW EXECUTE FUNCTION shop.audit_user();
