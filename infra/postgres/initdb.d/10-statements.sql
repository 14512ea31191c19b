-- Run once, by the container that makes the database: shows the exporter statistics per statement.
CREATE EXTENSION IF NOT EXISTS pg_stat_statements;
