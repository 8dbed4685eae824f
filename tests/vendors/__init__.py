"""What stands in for a vendor or is the real engine, one file each, with the kits that the conformance suite runs over.

A module here has `KITS`: name → context manager that gives a Kit for a Place. `HOLDERS` names those whose destination holds its
own checkpoint, `NAMING` those whose vendor names events that it refuses, `DEFERRING` those whose vendor puts single events off,
`TRANSLATING` those whose events take the vendor's shape. One that can run as a process of its own (for
benchmarks) has `serve(port)`, and `settings(url)` of a destination that sends to it. One that brings a real engine has
`engine()`, a context manager that starts it, or raises EngineUnavailable.
"""
