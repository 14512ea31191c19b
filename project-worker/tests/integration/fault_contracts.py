"""Contracts of the tasks that run while servers and processes fail (`fault_app.py`).

What belongs here: what the fault tests and the tasks of `fault_app` agree on.
"""

from project_contracts.contract import Payload, TaskContract
from project_contracts.queues import PROJECT_WORKER


class Witnessed(Payload):
    """A task whose runs are written to a file, the oracle's log."""

    log: str


class Work(Witnessed):
    """Takes `seconds`, then returns `value`."""

    seconds: float
    value: int


class Plus(Payload):
    """Adds `amount` to what a chain hands over."""

    value: int
    log: str
    amount: int


class Total(Payload):
    """Adds up what a chord hands over."""

    values: list[int]
    log: str


WORK = TaskContract(name="faults.work", queue=PROJECT_WORKER, payload=Work, result=int)
STUMBLE = TaskContract(name="faults.stumble", queue=PROJECT_WORKER, payload=Work, result=int)
"""As WORK, but its first run ends with an error that is retried."""
FAIL = TaskContract(name="faults.fail", queue=PROJECT_WORKER, payload=Witnessed, result=int)
PLUS = TaskContract(name="faults.plus", queue=PROJECT_WORKER, payload=Plus, result=int)
TOTAL = TaskContract(name="faults.total", queue=PROJECT_WORKER, payload=Total, result=int)
