"""What the tasks compute: pure functions that know nothing of Celery.

What belongs here: a module per domain; they take data as arguments, so that tests need no worker.
"""
