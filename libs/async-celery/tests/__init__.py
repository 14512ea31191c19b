"""Tests of async_celery: `unit` needs no socket, `integration` needs real servers."""
