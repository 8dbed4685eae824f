"""cdc-tracker: row changes of a PostgreSQL database become product-analytics events, each delivered once."""

__version__ = "0.1.0"
