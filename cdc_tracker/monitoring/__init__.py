"""The worker's health: facts from the stores, findings from the facts; the same for `status`, probes and metrics."""

from cdc_tracker.monitoring.facts import DestinationHealth, Health, Observer, condition, reports
from cdc_tracker.monitoring.findings import Finding

__all__ = ["DestinationHealth", "Finding", "Health", "Observer", "condition", "reports"]
