"""The integer tasks.

What belongs here: adapters from the contracts of `project_contracts.integers` to `worker.domain.integers`. In
a chain or a chord, Celery passes the previous result as the first positional argument: the order of
parameters counts."""

from project_contracts.integers import INTEGER_MULTIPLICATION, INTEGERS_SUM
from worker.domain import integers as domain
from worker.tasks.binding import TaskBinder


def register(task: TaskBinder) -> None:
    """Register the integer tasks."""

    @task(INTEGER_MULTIPLICATION)
    def integer_multiplication(multiplicand: int, multiplier: int) -> int:
        """Return the product of two integers."""
        return domain.multiply(multiplicand, multiplier)

    @task(INTEGERS_SUM)
    def integers_sum(integers: list[int]) -> int:
        """Return the sum of the integers."""
        return domain.add_up(integers)
