"""The tasks of the workflow `world-statistics`: one report per continent, then the world's.

What belongs here: adapters from the contracts of `project_contracts.statistics` to
`worker.domain.statistics`."""

from project_contracts.statistics import (
    CONTINENT_STATISTICS,
    WORLD_REPORT,
    ContinentCode,
    ContinentReport,
    ContinentStatisticsPayload,
    WorldReport,
    WorldReportPayload,
)
from worker.domain import statistics as domain
from worker.domain.geonames import load_world
from worker.tasks.binding import TaskBinder


def register(task: TaskBinder) -> None:
    """Register the statistics tasks."""

    @task(CONTINENT_STATISTICS)
    def continent_statistics(continent: ContinentCode) -> ContinentReport:
        """Report on one continent; a child's first call also reads the data (about 2 s)."""
        payload = ContinentStatisticsPayload(continent=continent)
        return domain.report_continent(payload.continent, load_world()[payload.continent])

    @task(WORLD_REPORT)
    def world_report(reports: list[ContinentReport]) -> WorldReport:
        """Merge the continents' reports, which arrive as JSON."""
        return domain.merge(WorldReportPayload.model_validate({"reports": reports}).reports)
