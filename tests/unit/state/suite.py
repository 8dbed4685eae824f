"""What every state store does, whatever database holds it. A subclass gives the fixture `url`."""

from __future__ import annotations

from tests.unit.state.checkpoint_suite import CheckpointSuite
from tests.unit.state.dead_letter_suite import DeadLetterSuite
from tests.unit.state.fence_suite import FenceSuite
from tests.unit.state.job_suite import JobSuite
from tests.unit.state.mapping_suite import MappingSuite
from tests.unit.state.sent_suite import SentSuite
from tests.unit.state.store_suite import StoreSuite
from tests.unit.state.totals_suite import TotalsSuite


class StateSuite(CheckpointSuite, DeadLetterSuite, FenceSuite, JobSuite, MappingSuite, SentSuite, StoreSuite, TotalsSuite):
    """Every subject's."""
