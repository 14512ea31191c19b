"""The worker: takes tasks from the queue `project-worker`, computes, stores their results.

How it is built: `main.py` makes the Celery app, `config.py` reads its settings, `logging.py` its log lines;
`tasks/` holds the thin Celery adapters, `domain/` the pure functions they call, `database/` the queries.

What belongs here: those rooms. A new task is a contract in `libs/project-contracts`, a function in `domain/`
and an adapter in `tasks/`."""
