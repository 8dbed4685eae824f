"""Which mappings make which events: those on disk, or those of the last run for events that it may have sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import structlog

from cdc_tracker.errors import CdcTrackerError, MappingError
from cdc_tracker.model import Position, Result, Segment
from cdc_tracker.pipeline import Pipeline

log = structlog.get_logger("deliver")


class LoadedMappings(NamedTuple):
    """`texts`: file name → content of the mapping files that the pipeline was built from. `keys`: of its mappings."""

    pipeline: Pipeline
    texts: Mapping[str, str]
    keys: Sequence[str] = ()


class MappingVersions:
    """The current mappings, and after a restart those of the last run until its events are dealt with.

    What the last run sent before it was killed may have arrived. Other mappings might reject such an event, or make another one.
    """

    def __init__(self, name: str, load: Callable[[], LoadedMappings], build: Callable[[Mapping[str, str]], Pipeline]) -> None:
        """`load` returns the mappings on disk, `build` the pipeline of recorded texts; both raise MappingError.

        `name`: the destination's, for the log.
        """
        self._name, self._load, self._build = name, load, build
        self.current = load()
        self._previous: Pipeline | None = None
        self._recorded: LoadedMappings | None = None

    @property
    def of_last_run(self) -> Pipeline:
        """The pipeline of the last run's mappings: the current one if they are the same, or do not load any more."""
        return self._previous or self.current.pipeline

    @property
    def recorded(self) -> bool:
        """The state store has the texts of the current mappings. Events are sent by recorded mappings only."""
        return self._recorded is self.current

    @property
    def any_recorded(self) -> bool:
        """This run has recorded mappings, perhaps earlier ones than the current."""
        return self._recorded is not None

    def recall(self, texts: Mapping[str, str]) -> None:
        """Takes the recorded texts of the last run; empty: there are none."""
        if texts and texts != self.current.texts:
            try:
                self._previous = self._build(texts)
            except CdcTrackerError as error:
                log.warning("the mappings of the last run do not load any more", destination=self._name, error=str(error))

    def reload(self) -> None:
        """Loads the mappings on disk; keeps the current ones if that fails."""
        try:
            self.current = self._load()
        except MappingError as error:
            log.error("the mappings do not load: the old ones stay in force", error=str(error))
        else:
            log.info("mappings reloaded", destination=self._name)

    def record(self) -> None:
        """The state store has the current texts: the last run's mappings are not needed any more."""
        self._previous, self._recorded = None, self.current

    def results(self, segment: Segment, after: Position, held: Position) -> list[Result]:
        """Results of the changes after `after`; by the mappings of the last run up to `held`, which the destination has."""
        if self._previous is None or after >= held:
            return self.current.pipeline.results(segment, after)
        return self._previous.results(segment, after, held) + self.current.pipeline.results(segment, max(after, held))
