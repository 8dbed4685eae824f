"""Delivery: what the pipeline makes to one destination, each event once, and accounted for."""
