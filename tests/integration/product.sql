-- A product's database, as several generations of its code have left it: quoted CamelCase names and text keys in public,
-- snake_case and whole cents in billing, a partitioned log in audit. Old rows are logged but for billing.refunds.
CREATE EXTENSION IF NOT EXISTS citext;
CREATE SCHEMA billing;
CREATE SCHEMA audit;

CREATE TYPE "TaskState" AS ENUM ('TODO', 'DOING', 'DONE');
CREATE TABLE "User" (
    "id" text PRIMARY KEY, "email" citext NOT NULL UNIQUE, "hashedPassword" text, "name" text, "locale" text NOT NULL DEFAULT 'en',
    "timeZone" text NOT NULL DEFAULT 'UTC', "metadata" jsonb NOT NULL DEFAULT '{}', "emailVerified" timestamp(3),
    "createdAt" timestamp(3) NOT NULL DEFAULT now(), "updatedAt" timestamp(3) NOT NULL DEFAULT now(), "deletedAt" timestamp(3));
CREATE TABLE "Preference" ("userId" text PRIMARY KEY REFERENCES "User", "companySize" text, "newsletter" boolean NOT NULL);
CREATE TABLE "Organization" ("id" uuid PRIMARY KEY, "slug" text NOT NULL UNIQUE, "name" text NOT NULL,
                             "ownerId" text NOT NULL REFERENCES "User");
CREATE TABLE "Membership" ("organizationId" uuid REFERENCES "Organization", "userId" text REFERENCES "User",
                           "role" text NOT NULL, UNIQUE ("organizationId", "userId"));
CREATE TABLE "Task" (
    "id" uuid PRIMARY KEY, "title" text NOT NULL, "state" "TaskState" NOT NULL DEFAULT 'TODO', "assigneeId" text,
    "createdById" text NOT NULL, "completedAt" timestamp(3));

CREATE DOMAIN billing.cents AS bigint CHECK (VALUE >= 0);
CREATE DOMAIN billing.currency AS char(3);
CREATE TYPE billing.subscription_status AS ENUM ('trialing', 'active', 'past_due', 'canceled');
CREATE TABLE billing.customers (id bigserial PRIMARY KEY, organization_id uuid NOT NULL UNIQUE, billing_email varchar);
CREATE TABLE billing.subscriptions (
    id bigserial PRIMARY KEY, customer_id bigint NOT NULL REFERENCES billing.customers, status billing.subscription_status NOT NULL,
    price_id bigint NOT NULL, canceled_at timestamptz, created_at timestamptz NOT NULL DEFAULT now(), trial_ends_at timestamptz);
CREATE TABLE billing.invoices (
    id bigserial PRIMARY KEY, number varchar UNIQUE, customer_id bigint NOT NULL REFERENCES billing.customers,
    status varchar NOT NULL DEFAULT 'draft', currency billing.currency NOT NULL, subtotal_cents billing.cents NOT NULL,
    tax_cents billing.cents NOT NULL, total_cents bigint NOT NULL, paid_at timestamptz);
CREATE TABLE billing.orders (
    id uuid PRIMARY KEY, number serial NOT NULL, user_id text NOT NULL, state varchar NOT NULL DEFAULT 'cart',
    currency billing.currency NOT NULL, total_cents bigint NOT NULL DEFAULT 0, refunded_cents bigint NOT NULL DEFAULT 0,
    fx_rate numeric(18, 8) NOT NULL DEFAULT 1, tags text[] NOT NULL DEFAULT '{}', paid boolean NOT NULL DEFAULT false,
    completed_at timestamptz, created_at timestamptz NOT NULL DEFAULT now(), deleted_at timestamptz);
CREATE TABLE billing.refunds (id bigserial PRIMARY KEY, order_id uuid NOT NULL, user_id bigint NOT NULL, state varchar(20) NOT NULL);

CREATE TABLE audit.events (
    id uuid NOT NULL, at timestamptz NOT NULL, actor_id text, action text NOT NULL, organization_id uuid,
    detail jsonb NOT NULL DEFAULT '{}', PRIMARY KEY (at, id)) PARTITION BY RANGE (at);
CREATE TABLE audit.events_2026 PARTITION OF audit.events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE audit.events_default PARTITION OF audit.events DEFAULT;

DO $$ DECLARE one regclass; BEGIN
    FOR one IN SELECT oid FROM pg_class WHERE relkind IN ('r', 'p') AND relname <> 'refunds'
               AND relnamespace IN ('public'::regnamespace, 'billing'::regnamespace, 'audit'::regnamespace) LOOP
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', one);
    END LOOP;
END $$;
