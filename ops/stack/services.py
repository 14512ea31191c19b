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
from stack.servers import (
    elastic,
    exporters,
    flower,
    grafana,
    pgadmin,
    postgres,
    projects,
    prometheus,
    rabbitmq,
    redis,
)
from stack.service import Binary, Link, Package, Program, Service

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
    ports=(
        Port(variable="WORKER_METRICS_PORT", default=9808, purpose="the worker's metrics"),
        Port(variable="PICKLE_WORKER_METRICS_PORT", default=9809, purpose="the metrics of that of signed pickle"),
    ),
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
            environment=projects.api_environment,
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
        Link(title="API: metrics", url="http://127.0.0.1:{API_PORT}/metrics"),
    ),
)

# Workers and their tasks on a page, as the seed has it.
FLOWER = Service(
    name="flower",
    description="Flower, which shows workers and their tasks",
    profile="monitoring",
    ports=(Port(variable="FLOWER_PORT", default=5555, purpose="Flower"),),
    prepare=flower.prepare,
    programs=(Program(name="flower", command=flower.command, environment=flower.environment),),
    venv="flower",
    needs=("rabbitmq",),
    health=health.answers("FLOWER_PORT", "/healthcheck"),
    health_deadline=60,
    links=(
        Link(
            title="Flower: workers and tasks",
            url="http://127.0.0.1:{FLOWER_PORT}",
            login="user {FLOWER_USER}, password: FLOWER_PASSWORD",
        ),
    ),
)

# What a server's statistics are to Prometheus: the database's, by way of its exporter.
POSTGRES_EXPORTER = Service(
    name="postgres-exporter",
    description="PostgreSQL's metrics",
    profile="monitoring",
    ports=(Port(variable="POSTGRES_EXPORTER_PORT", default=9187, purpose="PostgreSQL's metrics"),),
    packages=(
        Package(
            name="prometheus-postgres-exporter",
            unit="prometheus-postgres-exporter.service",
            find=exporters.find_postgres,
        ),
    ),
    prepare=exporters.prepare_postgres,
    programs=(
        Program(
            name="postgres-exporter",
            user=prometheus.USER,
            command=exporters.postgres_command,
            environment=exporters.postgres_environment,
        ),
    ),
    needs=("postgres",),
    health=health.exports("POSTGRES_EXPORTER_PORT", "pg_up 1"),
    health_deadline=30,
)

# The result backend's.
REDIS_EXPORTER = Service(
    name="redis-exporter",
    description="Redis' metrics",
    profile="monitoring",
    ports=(Port(variable="REDIS_EXPORTER_PORT", default=9121, purpose="Redis' metrics"),),
    packages=(
        Package(
            name="prometheus-redis-exporter", unit="prometheus-redis-exporter.service", find=exporters.find_redis
        ),
    ),
    programs=(
        Program(
            name="redis-exporter",
            user=prometheus.USER,
            command=exporters.redis_command,
            environment=exporters.redis_environment,
        ),
    ),
    needs=("redis",),
    health=health.exports("REDIS_EXPORTER_PORT", "redis_up 1"),
    health_deadline=30,
)

# The machine's: processors, memory, disks, network.
NODE_EXPORTER = Service(
    name="node-exporter",
    description="the machine's metrics",
    profile="monitoring",
    ports=(Port(variable="NODE_EXPORTER_PORT", default=9100, purpose="the machine's metrics"),),
    packages=(
        Package(
            name="prometheus-node-exporter", unit="prometheus-node-exporter.service", find=exporters.find_node
        ),
    ),
    programs=(Program(name="node-exporter", user=prometheus.USER, command=exporters.node_command),),
    health=health.exports("NODE_EXPORTER_PORT", 'node_scrape_collector_success{collector="meminfo"} 1'),
    health_deadline=30,
)

# Our programs', by name: natively what cAdvisor is with Docker. Started by root, it stays root (no `user`): open
# files and disk traffic of another account's process are told to nobody else.
PROCESS_EXPORTER = Service(
    name="process-exporter",
    description="our programs' metrics",
    profile="monitoring",
    ports=(Port(variable="PROCESS_EXPORTER_PORT", default=9256, purpose="our programs' metrics"),),
    packages=(
        Package(
            name="prometheus-process-exporter",
            unit="prometheus-process-exporter.service",
            find=exporters.find_process,
        ),
    ),
    prepare=exporters.prepare_process,
    programs=(Program(name="process-exporter", command=exporters.process_command),),
    health=health.exports("PROCESS_EXPORTER_PORT", "namedprocess_scrape_errors 0"),
    health_deadline=30,
)

# Tells somebody what Prometheus finds wrong.
ALERTMANAGER = Service(
    name="alertmanager",
    description="Alertmanager, which tells about what is wrong",
    profile="monitoring",
    ports=(Port(variable="ALERTMANAGER_PORT", default=9093, purpose="Alertmanager"),),
    packages=(
        Package(
            name="prometheus-alertmanager",
            unit="prometheus-alertmanager.service",
            find=prometheus.find_alertmanager,
        ),
    ),
    prepare=prometheus.prepare_alertmanager,
    programs=(Program(name="alertmanager", user=prometheus.USER, command=prometheus.alertmanager_command),),
    health=health.answers("ALERTMANAGER_PORT", "/-/ready"),
    health_deadline=30,
    links=(Link(title="Alertmanager", url="http://127.0.0.1:{ALERTMANAGER_PORT}"),),
)

# Collects everybody's metrics, and watches them by rules.
PROMETHEUS = Service(
    name="prometheus",
    description="Prometheus, which collects all metrics",
    profile="monitoring",
    ports=(Port(variable="PROMETHEUS_PORT", default=9090, purpose="Prometheus"),),
    packages=(Package(name="prometheus", unit="prometheus.service", find=prometheus.find, oldest=(2, 42)),),
    prepare=prometheus.prepare,
    programs=(Program(name="prometheus", user=prometheus.USER, command=prometheus.command),),
    health=health.answers("PROMETHEUS_PORT", "/-/ready"),
    health_deadline=30,
    links=(
        # Its start page leads on to both; their own addresses are others in Debian's build than in the newest.
        Link(title="Prometheus: queries, and what is scraped", url="http://127.0.0.1:{PROMETHEUS_PORT}"),
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

# Shows what Prometheus collects, as dashboards.
GRAFANA = Service(
    name="grafana",
    description="Grafana, the dashboards",
    profile="monitoring",
    ports=(Port(variable="GRAFANA_PORT", default=3000, purpose="Grafana"),),
    packages=PROMETHEUS.packages,  # its account
    binary=Binary(
        find=grafana.find,
        how="with Docker, or from https://grafana.com/grafana/download: its bin folder on PATH",
    ),
    prepare=grafana.prepare,
    programs=(
        Program(name="grafana", user=grafana.USER, command=grafana.command, environment=grafana.environment),
    ),
    needs=("prometheus",),
    health=health.answers("GRAFANA_PORT", "/api/health"),
    health_deadline=90,  # its first start makes its database
    links=(
        Link(
            title="Grafana: dashboards",
            url="http://127.0.0.1:{GRAFANA_PORT}",
            login="looking needs none; to edit: user {GRAFANA_USER}, password: GRAFANA_PASSWORD",
        ),
    ),
)

# Keeps the log lines, to be searched.
ELASTICSEARCH = Service(
    name="elasticsearch",
    description="Elasticsearch, the store of log lines",
    profile="logging",
    ports=(
        Port(variable="ELASTICSEARCH_PORT", default=9200, purpose="Elasticsearch"),
        Port(variable="ELASTICSEARCH_TRANSPORT_PORT", default=9300, purpose="Elasticsearch's cluster port"),
    ),
    packages=PROMETHEUS.packages,  # its account
    binary=Binary(
        find=elastic.find_elasticsearch,
        how="with Docker, or from https://www.elastic.co/downloads: the archive, its bin folder on PATH",
    ),
    prepare=elastic.prepare_elasticsearch,
    programs=(
        Program(
            name="elasticsearch",
            user=elastic.USER,
            command=elastic.elasticsearch_command,
            environment=elastic.elasticsearch_environment,
            stop_wait=30,
        ),
    ),
    health=health.answers("ELASTICSEARCH_PORT", "/_cluster/health?wait_for_status=yellow&timeout=1s"),
    health_deadline=180,
    links=(Link(title="Elasticsearch", url="http://127.0.0.1:{ELASTICSEARCH_PORT}"),),
)

# Searches them.
KIBANA = Service(
    name="kibana",
    description="Kibana, which searches log lines",
    profile="logging",
    ports=(Port(variable="KIBANA_PORT", default=5601, purpose="Kibana"),),
    packages=PROMETHEUS.packages,  # its account
    binary=Binary(
        find=elastic.find_kibana,
        how="with Docker, or from https://www.elastic.co/downloads: the archive, its bin folder on PATH",
    ),
    prepare=elastic.prepare_kibana,
    programs=(
        Program(
            name="kibana",
            user=elastic.USER,
            command=elastic.kibana_command,
            environment=elastic.kibana_environment,
            stop_wait=30,
        ),
    ),
    needs=("elasticsearch",),
    health=health.answers("KIBANA_PORT", "/api/status"),
    health_deadline=240,
    links=(Link(title="Kibana: log lines", url="http://127.0.0.1:{KIBANA_PORT}"),),
)

# The database on a page. 600 MB to install: in the background, so that nothing waits for it.
PGADMIN = Service(
    name="pgadmin",
    description="pgAdmin, the database on a page",
    profile="admin",
    ports=(Port(variable="PGADMIN_PORT", default=5050, purpose="pgAdmin"),),
    programs=(Program(name="pgadmin", command=pgadmin.command, environment=pgadmin.environment),),
    venv="pgadmin",
    in_background=True,
    needs=("postgres",),
    health=health.answers("PGADMIN_PORT", "/misc/ping"),
    health_deadline=90,  # s after its installation
    links=(
        Link(
            title="pgAdmin: the database",
            url="http://127.0.0.1:{PGADMIN_PORT}",
            login="user {PGADMIN_EMAIL}, password: PGADMIN_PASSWORD",
        ),
    ),
)

SERVICES = (
    POSTGRES,
    REDIS,
    RABBITMQ,
    PROJECT_WORKER,
    PROJECT_API,
    RELOAD,
    FLOWER,
    POSTGRES_EXPORTER,
    REDIS_EXPORTER,
    NODE_EXPORTER,
    PROCESS_EXPORTER,
    ALERTMANAGER,
    PROMETHEUS,
    GRAFANA,
    ELASTICSEARCH,
    KIBANA,
    PGADMIN,
)

PROFILES = tuple(dict.fromkeys(service.profile for service in SERVICES))
"""What `up --profile` takes."""

BY_DEFAULT = tuple(profile for profile in PROFILES if profile != "logging")
"""What it starts when none is named: natively nothing sends log lines to Elasticsearch."""

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


def of_profiles(names: Iterable[str]) -> list[Service]:
    """Return the services of these profiles that can be started here; of `BY_DEFAULT` when none is named.

    Raises:
        UsageError: There is no profile of a name; lists those there are.
    """
    wanted = set(names) or set(BY_DEFAULT)
    if unknown := sorted(wanted.difference(PROFILES)):
        raise UsageError(f"there is no profile {', '.join(unknown)}", hint=f"profiles: {', '.join(PROFILES)}")
    return [service for service in SERVICES if service.profile in wanted and not service.is_left_out]


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
