"""PostgreSQL as the tasks use it: transactions and queries.

How it is built: `session.py` opens a task's transaction; each other module is a repository, a class with the
queries of one subject that is given the transaction's session. Tables and errors are `project_database`'s, shared
with the API.

What belongs here: everything that knows SQLAlchemy. What rows mean is computed in `worker/domain`.
"""
