"""The exporters: small programs that ask a server, or the machine, and tell Prometheus.

What belongs here: their command lines and credentials. None keeps data.
"""

import shutil
from pathlib import Path
from threading import Event

from stack import folders
from stack.instance import Instance
from stack.processes import reported_version
from stack.servers import postgres
from stack.servers.prometheus import USER

_SHOW_STATEMENTS = """
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_stat_statements') THEN
        CREATE EXTENSION IF NOT EXISTS pg_stat_statements;
    END IF;
END $$"""

_STATEMENTS_BUILT_IN = (0, 14)
"""The first postgres-exporter that has a collector for pg_stat_statements; Debian 12 has an older one."""


def find_postgres() -> Path | None:
    """Return the installed postgres-exporter, or None."""
    return _find("postgres", "postgres_exporter")


def find_redis() -> Path | None:
    """Return the installed redis-exporter, or None."""
    return _find("redis", "redis_exporter")


def find_node() -> Path | None:
    """Return the installed node-exporter, or None."""
    return _find("node", "node_exporter")


def find_process() -> Path | None:
    """Return the installed process-exporter, or None."""
    return _find("process", "process-exporter")


def prepare_postgres(instance: Instance, _: Event) -> None:
    """Let the database show its statistics per statement, and write how an old exporter asks for them.

    Raises:
        StackError: The database refuses.
    """
    postgres.execute(instance, _SHOW_STATEMENTS)
    folders.make_owned(instance.config("postgres-exporter"), USER)
    folders.write_owned(_postgres_queries(instance), instance.template("postgres-exporter", "queries.yml"), USER)


def postgres_command(instance: Instance) -> list[str]:
    """Return postgres-exporter's command line."""
    program = find_postgres() or Path("postgres_exporter")
    return [
        str(program),
        _listen(instance, "POSTGRES_EXPORTER_PORT"),
        statements(reported_version(program), _postgres_queries(instance)),
    ]


def statements(version: str | None, queries: Path) -> str:
    """Return the option by which an exporter of this version shows statistics per statement."""
    known = tuple(map(int, version.split("."))) if version is not None else _STATEMENTS_BUILT_IN
    if known < _STATEMENTS_BUILT_IN:
        return f"--extend.query-path={queries}"
    return "--collector.stat_statements"


def postgres_environment(instance: Instance) -> dict[str, str]:
    """Return how it reaches the database."""
    address = f"{instance['POSTGRES_HOST']}:{instance['POSTGRES_PORT']}/{instance['POSTGRES_DB']}"
    return {
        "DATA_SOURCE_URI": f"{address}?sslmode=disable",
        "DATA_SOURCE_USER": instance["POSTGRES_USER"],
        "DATA_SOURCE_PASS": instance["POSTGRES_PASSWORD"],
    }


def redis_command(instance: Instance) -> list[str]:
    """Return redis-exporter's command line."""
    return [str(find_redis() or "redis_exporter"), _listen(instance, "REDIS_EXPORTER_PORT")]


def redis_environment(instance: Instance) -> dict[str, str]:
    """Return how it reaches Redis."""
    return {
        "REDIS_ADDR": f"redis://{instance['REDIS_HOST']}:{instance['REDIS_PORT']}",
        "REDIS_PASSWORD": instance["REDIS_PASSWORD"],
    }


def node_command(instance: Instance) -> list[str]:
    """Return node-exporter's command line."""
    return [str(find_node() or "node_exporter"), _listen(instance, "NODE_EXPORTER_PORT")]


def prepare_process(instance: Instance, _: Event) -> None:
    """Write process-exporter's configuration."""
    folders.make_owned(instance.config("process-exporter"), None)
    text = instance.template("process-exporter", "process-exporter.yml")
    folders.write_owned(_process_configuration(instance), text, None)


def process_command(instance: Instance) -> list[str]:
    """Return process-exporter's command line."""
    return [
        str(find_process() or "process-exporter"),
        f"--config.path={_process_configuration(instance)}",
        "--threads=false",  # a series per thread of every process: too many for what they tell
        _listen(instance, "PROCESS_EXPORTER_PORT"),
    ]


def _postgres_queries(instance: Instance) -> Path:
    return instance.config("postgres-exporter") / "queries.yml"


def _process_configuration(instance: Instance) -> Path:
    return instance.config("process-exporter") / "process-exporter.yml"


def _listen(instance: Instance, variable: str) -> str:
    return f"--web.listen-address=127.0.0.1:{instance.port(variable)}"


def _find(name: str, upstream: str) -> Path | None:
    """Return Debian's program, or the one that the project's own releases bring."""
    program = shutil.which(f"prometheus-{name}-exporter") or shutil.which(upstream)
    return Path(program) if program else None
