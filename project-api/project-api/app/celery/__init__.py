"""Celery's side of the API: the only room that imports celery and async_celery."""
