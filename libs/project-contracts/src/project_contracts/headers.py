"""Message headers of our own, beside Celery's.

What belongs here: header names. Never `correlation_id`: Celery overwrites it.
"""

REQUEST_ID = "x-request-id"
"""The id of the HTTP request that a task was sent for; the same name as the HTTP header."""
