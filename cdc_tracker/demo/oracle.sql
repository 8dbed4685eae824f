-- Every event that the shop's committed rows call for, from the source tables alone: its type and name, who it is about, and the
-- properties (or traits) that tell it from any other. `anonymousId` stands among them where the event must have one.
-- One row for each event that must be at a destination.

SELECT 'track' AS type, 'Signed Up' AS name, user_id, facts - 'name' - 'email_hash' AS properties
FROM shop.audit WHERE what = 'insert'
UNION ALL
SELECT 'identify', '', user_id, facts - 'anonymousId'
FROM shop.audit WHERE what IN ('insert', 'update')
UNION ALL
SELECT 'track', 'Account Deleted', user_id, facts - 'anonymousId' - 'name' - 'about_length'
FROM shop.audit WHERE what = 'delete'
UNION ALL
SELECT 'track', 'Order Created', user_id::text,
    jsonb_build_object('order_id', id, 'total', total, 'units', (SELECT sum(quantity) FROM shop.order_items WHERE order_id = id))
FROM shop.orders
UNION ALL
SELECT 'track', 'Order Paid', user_id::text,
    jsonb_build_object('order_id', id, 'revenue', total, 'gift_message_length', length(gift_message))
FROM shop.orders WHERE paid_at IS NOT NULL
UNION ALL
SELECT 'track', 'Order Refunded', user_id::text, jsonb_build_object('order_id', id, 'refund', total)
FROM shop.orders WHERE refunded_at IS NOT NULL
UNION ALL
SELECT 'track', 'Product Ordered', user_id::text,
    jsonb_build_object('order_id', order_id, 'line', line, 'sku', sku, 'quantity', quantity, 'price', price)
FROM shop.order_items
UNION ALL
SELECT 'track', 'Subscription Started', user_id::text, jsonb_build_object('subscription_id', id, 'plan', plan, 'price', price)
FROM shop.subscriptions
UNION ALL
SELECT 'track', 'Subscription Renewed', user_id::text, jsonb_build_object('subscription_id', id, 'renewal', renewal)
FROM shop.subscriptions, generate_series(1, renewals) AS renewal
UNION ALL
SELECT 'track', 'Subscription Cancelled', user_id::text, jsonb_build_object('subscription_id', id, 'renewals', renewals)
FROM shop.subscriptions WHERE cancelled_at IS NOT NULL
UNION ALL
SELECT 'track', facts ->> 'event', user_id, facts - 'event'
FROM shop.audit WHERE what IN ('outbox', 'track message')
UNION ALL
SELECT 'identify', '', user_id, facts
FROM shop.audit WHERE what = 'identify message'
