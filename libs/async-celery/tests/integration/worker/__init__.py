"""Tests of `async_celery.worker`."""
