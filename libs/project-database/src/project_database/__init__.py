"""What project-api and project-worker share of PostgreSQL, and nothing else.

Role: tables (`tables.py`), transactions (`sessions.py`), errors (`errors.py`). The API owns the schema's history
(`project-api/project-api/migrations`) and everything that clients ask; the worker imports rows and computes on
them. Each has its own queries, in its own repositories.

What belongs here: what would otherwise be written twice. SQLAlchemy and its driver only.
"""
