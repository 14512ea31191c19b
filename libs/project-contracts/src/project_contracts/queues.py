"""The queues, one per autonomous service: a queue carries its service's name.

What belongs here: queue names. Their arguments (type, limits, dead letters) join them when they have any.
"""

PROJECT_WORKER = "project-worker"
