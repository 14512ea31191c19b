"""A worker's metrics for Prometheus: `install_metrics(app, port=9808)`, and `http://127.0.0.1:9808/metrics`.

How it works: a pool's processes cannot each have an endpoint, and whoever asks one of them misses the others. So
all of them write what they count into files of their own (prometheus_client's multiprocess mode), and the main
process adds these up for its one endpoint whenever somebody asks (`service.py`). What the main process alone
knows, what runs and what waits here, it looks up at that moment (`state.py`). What is counted, and when, is in
`recorder.py`.

Needs `pip install async-celery[worker]`. Metrics never stop a worker: one that cannot have them says why, once,
and works without.

What belongs here: the name for users.
"""

from async_celery.worker.metrics.service import install_metrics

__all__ = ["install_metrics"]
