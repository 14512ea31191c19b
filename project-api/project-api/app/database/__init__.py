"""PostgreSQL: the only room that imports SQLAlchemy."""
