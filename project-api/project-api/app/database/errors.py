"""What can go wrong with PostgreSQL, in the API's own words.

What belongs here: exceptions that `session.py` and the repositories raise. `app/api/problems.py` turns them
into HTTP.
"""


class DatabaseError(Exception):
    """PostgreSQL is out of reach. The message is safe to show: it holds no address and no credential."""
