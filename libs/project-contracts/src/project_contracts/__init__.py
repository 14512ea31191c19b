"""What project-api and project-worker agree on, and nothing else.

Role: the only thing both projects import. The API sends a task by its contract's name and never imports the
task's code; the worker registers a function under the same contract. A typo is therefore a type error, not a
message that nobody consumes.

What belongs here: queue names, task contracts (name, queue, serializer, payload and result models), the
addresses of the services both talk to, what their log lines look like. Standard library, pydantic and
ecs-logging only.
"""
