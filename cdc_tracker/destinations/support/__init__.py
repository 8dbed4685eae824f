"""What destinations share.

- event_view: an event's fields, read once, with its JSON kept as bytes; json_splice: that JSON in a vendor's shape.
- request_groups: one batch as several requests. http, deadline: one HTTP client, what each status means, bounded answers.
- name_templates, naming: topics, keys and identifiers made from an event. formats: events or raw changes, by a setting.
- arrow_columns, json_lines: events as rows and as lines. faults: what the core makes of a destination's answers and errors.
"""
