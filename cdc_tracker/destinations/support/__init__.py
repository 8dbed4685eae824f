"""What destinations share.

- event_view: an event's fields, read once, with its JSON kept as bytes; json_splice: that JSON in a vendor's shape.
- vendor: one batch as requests to an HTTP API. http, deadline: one HTTP client, what each status means, bounded answers.
- exactly_once: a position stored with the events. folders: durable files. urls: credentials, and texts without them.
- name_templates, naming: topics, keys and identifiers made from an event. formats: events or raw changes, as JSON or lines of it.
- arrow_columns: events as rows.
"""
