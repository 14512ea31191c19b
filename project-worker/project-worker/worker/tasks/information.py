"""The task without arguments: which worker answers, and what it is made of.

What belongs here: that adapter. It reads the process it runs in, so there is no pure function behind it.
"""

import os
import platform
import socket
import time

import celery

from project_contracts.information import WORKER_INFORMATION, WorkerInformationResult
from worker.tasks.binding import TaskBinder


def register(task: TaskBinder) -> None:
    """Register the information task; the worker's uptime counts from here."""
    started = time.monotonic()  # s

    @task(WORKER_INFORMATION)
    def worker_information() -> WorkerInformationResult:
        """Describe the process that runs this task."""
        return WorkerInformationResult(
            hostname=socket.gethostname(),
            pid=os.getpid(),
            python=platform.python_version(),
            celery=celery.__version__,
            uptime_seconds=time.monotonic() - started,
        )
