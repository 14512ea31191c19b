"""The task that computes a country's statistics anew, sent whenever one of its cities was written.

How it works: the refresh counts (`refreshes`), so it is an effect that must not happen twice: it goes through the
inbox. A second run of the same task returns what the first one has stored.

What belongs here: adapters from the contract of `project_contracts.countries` to `worker/database`.
"""

from celery import current_task

from project_contracts.countries import COUNTRY_STATISTICS, CountryStatistics
from worker.database.inbox import Inbox
from worker.database.session import transaction
from worker.database.statistics import Statistics
from worker.tasks.binding import TaskBinder


def register(task: TaskBinder) -> None:
    """Register the task."""

    @task(COUNTRY_STATISTICS)
    async def country_statistics(country_code: str) -> CountryStatistics:
        """Compute a country's statistics from its cities, and store them."""
        async with transaction() as session:
            statistics = Statistics(session)
            if await Inbox(session).is_first_run(str(current_task.request.id)):
                await statistics.refresh([country_code])
            stored = await statistics.get_one(country_code)
        return CountryStatistics(
            country_code=stored.country_code,
            cities=stored.cities,
            population=stored.population,
            largest_city=stored.largest_city,
        )
