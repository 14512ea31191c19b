"""Flower's options: its page shows the workers and their tasks, as they report them.

Role: the seed's basic monitoring of Celery; called by people's browsers. Prometheus scrapes its `/metrics`.

How it works: Flower listens to the workers' events (`TASK_EVENTS`) and asks RabbitMQ's management API about
queues. It keeps what it saw in one file, so a restart forgets nothing.

What belongs here: what holds in every start mode. Address, port, credentials and the file's place come from the
environment (`FLOWER_*`), see `ops/stack/servers/flower.py`.
"""

persistent = True
save_state_interval = 60_000  # ms; written at a clean end as well
max_tasks = 10_000  # the newest ones; each is some kB of memory
purge_offline_workers = 300  # s after which a worker that has gone is forgotten
inspect_timeout = 1_000.0  # ms
# Whoever may see the page may also stop tasks and workers from it.
enable_events = True  # workers that were started without -E send events while Flower runs
