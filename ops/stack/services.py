"""The table: every service of the system. Adding one is one entry here, and a module in `servers/`.

How it works: `up`, `down`, `status`, `logs`, `urls`, the port checks and the tests' own servers all read this
table; nothing else names a service. The order is the order in which services are shown; `needs` is the order in
which they start.

What belongs here: entries. What an entry can say is in `service.py`.
"""

from collections.abc import Iterable

from stack import health
from stack.errors import UsageError
from stack.ports import Port
from stack.servers import postgres, projects, rabbitmq, redis
from stack.service import Link, Package, Program, Service

# The database: the API's rows, and what the worker imports into it.
POSTGRES = Service(
    name="postgres",
    description="PostgreSQL, the database",
    ports=(Port(variable="POSTGRES_PORT", default=5432, purpose="PostgreSQL"),),
    packages=(Package(name="postgresql", unit="postgresql.service", find=postgres.find, oldest=(15,)),),
    prepare=postgres.prepare,
    programs=(
        Program(
            name="postgres",
            user=postgres.USER,
            command=postgres.command,
            # INT: end sessions and stop. TERM would wait until every client has gone by itself.
            stop_signal="INT",
            death_signal="INT",
        ),
    ),
    health=postgres.check,
    health_deadline=30,
)

# The result backend: the worker stores results in it, the API waits for them.
REDIS = Service(
    name="redis",
    description="Redis, the result backend",
    ports=(Port(variable="REDIS_PORT", default=6379, purpose="Redis"),),
    packages=(Package(name="redis-server", unit="redis-server.service", find=redis.find, oldest=(7, 0)),),
    prepare=redis.prepare,
    programs=(Program(name="redis", user=redis.USER, command=redis.command),),
    health=health.redis,
    health_deadline=30,
)

# The broker: the API publishes tasks to it, the worker consumes them.
RABBITMQ = Service(
    name="rabbitmq",
    description="RabbitMQ, the broker",
    ports=(
        Port(variable="RABBITMQ_PORT", default=5672, purpose="RabbitMQ"),
        Port(variable="RABBITMQ_MANAGEMENT_PORT", default=15672, purpose="RabbitMQ's management pages"),
        Port(variable="RABBITMQ_PROMETHEUS_PORT", default=15692, purpose="RabbitMQ's metrics"),
        Port(variable="RABBITMQ_DIST_PORT", default=25672, purpose="RabbitMQ's cluster port"),
        Port(variable="EPMD_PORT", default=4370, purpose="Erlang's port mapper"),  # 4369 is the system's own
    ),
    packages=(
        Package(
            name="rabbitmq-server",
            unit="rabbitmq-server.service",
            find=rabbitmq.find,
            version=rabbitmq.version,
            oldest=(3, 10),
        ),
        Package(
            name="erlang-base",
            unit="epmd.service",
            find=rabbitmq.find_epmd,
            version=rabbitmq.erlang_version,
            oldest=(25,),
        ),
    ),
    prepare=rabbitmq.prepare,
    programs=(
        Program(name="epmd", user=rabbitmq.USER, command=rabbitmq.epmd_command),
        Program(
            name="rabbitmq",
            user=rabbitmq.USER,
            command=rabbitmq.command,
            environment=rabbitmq.environment,
            stop_wait=30,  # it writes its state first: 8 s were seen
        ),
    ),
    health=rabbitmq.check,
    health_deadline=90,
    links=(
        Link(
            title="RabbitMQ management",
            url="http://127.0.0.1:{RABBITMQ_MANAGEMENT_PORT}",
            login="user {RABBITMQ_USER}, password: RABBITMQ_PASSWORD",
        ),
        Link(title="RabbitMQ metrics", url="http://127.0.0.1:{RABBITMQ_PROMETHEUS_PORT}/metrics"),
    ),
)

PROJECT_WORKER = Service(
    name="project-worker",
    description="the Celery workers, and the reaper of what they leave",
    programs=(
        # Ends what no worker will: dead letters, expired waits, workflows past their deadline.
        Program(
            name="project-worker-reaper",
            command=projects.reaper_command,
            environment=projects.environment,
            directory=projects.worker_directory,
        ),
        # The tasks whose arguments JSON cannot hold.
        Program(
            name="project-worker-pickle",
            command=projects.pickle_worker_command,
            environment=projects.environment,
            directory=projects.worker_directory,
            death_signal="KILL",
        ),
        Program(
            name="project-worker",
            command=projects.worker_command,
            environment=projects.environment,
            directory=projects.worker_directory,
            # KILL, and its children follow (Celery arms them with the same). On QUIT it says good-bye to the
            # broker, which ends at that moment too, and has been seen to wait for it for ever. Nothing is lost:
            # unfinished tasks were not acknowledged and are delivered again.
            death_signal="KILL",
        ),
    ),
    venv="project-worker",
    needs=("postgres", "redis", "rabbitmq"),
    health=projects.check_worker,
    health_deadline=60,
)

PROJECT_API = Service(
    name="project-api",
    description="the FastAPI application",
    prepare=projects.migrate,
    ports=(Port(variable="API_PORT", default=5000, purpose="the API"),),
    programs=(
        Program(
            name="project-api",
            command=projects.api_command,
            environment=projects.environment,
            directory=projects.api_directory,
            stop_wait=15,  # uvicorn lets requests finish for 10 s
        ),
    ),
    venv="project-api",
    needs=("postgres", "redis", "rabbitmq"),
    health=health.api,
    health_deadline=60,
    links=(
        Link(title="API: try it", url="http://127.0.0.1:{API_PORT}/docs"),
        Link(title="API: is it ready?", url="http://127.0.0.1:{API_PORT}/health/ready"),
    ),
)

# Development: restarts the API and the worker when their code changes. STACK_RELOAD=0 leaves it out.
RELOAD = Service(
    name="reload",
    description="restarts the projects when their code changes",
    programs=(Program(name="reload", command=projects.reload_command, environment=projects.reload_environment),),
    needs=("project-api", "project-worker"),
    health=lambda _: None,  # that it runs is all there is to check
    health_deadline=10,
)

SERVICES = (POSTGRES, REDIS, RABBITMQ, PROJECT_WORKER, PROJECT_API, RELOAD)

SERVERS = (POSTGRES, REDIS, RABBITMQ)
"""What integration tests run against."""

PORTS = tuple(port for service in SERVICES for port in service.ports)


def by_name(names: Iterable[str]) -> list[Service]:
    """Return the services with these names, in the table's order.

    Raises:
        UsageError: There is no service of a name; lists those there are.
    """
    wanted = set(names)
    known = [service.name for service in SERVICES]
    if unknown := sorted(wanted.difference(known)):
        raise UsageError(f"there is no service {', '.join(unknown)}", hint=f"services: {', '.join(known)}")
    return [service for service in SERVICES if service.name in wanted]


def with_needs(chosen: Iterable[Service]) -> list[Service]:
    """Return the services and everything that they need, in the table's order."""
    wanted: set[str] = set()
    pending = [service.name for service in chosen]
    while pending:
        name = pending.pop()
        if name not in wanted:
            wanted.add(name)
            pending += by_name([name])[0].needs
    return by_name(wanted)
