"""Tombstones: what says in Redis that a task is cancelled, to workers that run now and to those that come later.

How it works: `cancel` writes one under the task's own id and one under its workflow's, which every member
carries as its `root_id`. A worker (`async_celery.worker`) looks for both before it starts a task, and again and
again while it runs. They live as long as results do. Celery's own workers know only the broadcast, which goes
out as well, and reaches those that listen at that moment.

What belongs here: the names that clients and workers must spell alike.
"""

STOP = "revoked"
"""What has not started never starts; what runs is stopped."""
LET_RUN = "revoked-if-queued"
"""What has not started never starts; what runs goes on."""


def key_of(task_id: str) -> str:
    """Return the key of a task's or workflow's tombstone."""
    return f"task-revoked:{task_id}"
