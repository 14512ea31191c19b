"""D6, hosts: use, saturation and errors of the machine, and of our programs by name."""

from dashboards.panels import DOCKER_ONLY, RATE, Board, Limits, Row, Unit, bars, lines, query, tile

_CONTAINERS = 'name!=""'  # cAdvisor also counts the groups that containers lie in
_DISKS = 'fstype!~"tmpfs|ramfs|squashfs|devtmpfs|proc|sysfs|cgroup.*"'

BOARD = Board(
    uid="fsfc-hosts",
    number=6,
    title="Hosts",
    description="Use, saturation and errors of processors, memory, disks and network; who takes them. Programs "
    "are counted by name on this machine: another stack's, too.",
    rows=(
        Row(
            title="Now",
            panels=(
                tile(
                    "Processors in use",
                    '1 - avg(rate(node_cpu_seconds_total{mode="idle"}[1m]))',
                    unit=Unit.RATIO,
                    description="Of all of them, in the last minute.",
                    limits=Limits(warning=0.8, critical=0.95),
                ),
                tile(
                    "Load per processor",
                    'avg(node_load1) / count(rate(node_cpu_seconds_total{mode="idle"}[1m]))',
                    unit=Unit.NUMBER,
                    description="Over 1, something waits for a processor or a disk.",
                    limits=Limits(warning=1, critical=2),
                    decimals=2,
                ),
                tile(
                    "Memory in use",
                    "1 - sum(node_memory_MemAvailable_bytes) / sum(node_memory_MemTotal_bytes)",
                    unit=Unit.RATIO,
                    description="What is not available to programs.",
                    limits=Limits(warning=0.8, critical=0.9),
                ),
                tile(
                    "Fullest disk",
                    f"max(1 - node_filesystem_avail_bytes{{{_DISKS}}} / node_filesystem_size_bytes{{{_DISKS}}})",
                    unit=Unit.RATIO,
                    description="RabbitMQ and PostgreSQL stop writing on a full one.",
                    limits=Limits(warning=0.8, critical=0.9),
                ),
                tile(
                    "Ended for want of memory",
                    "sum(increase(node_vmstat_oom_kill[1h])) or vector(0)",
                    unit=Unit.NUMBER,
                    description="Processes that the kernel killed in the last hour.",
                    limits=Limits(warning=1, critical=2),
                ),
                tile(
                    "Our processes",
                    "sum(namedprocess_namegroup_num_procs)",
                    unit=Unit.NUMBER,
                    description="On this machine, workers' children included; another stack's count, too.",
                ),
            ),
        ),
        Row(
            title="Processors and memory",
            panels=(
                lines(
                    "Processors, by mode",
                    query("{{mode}}", f'sum by (mode) (rate(node_cpu_seconds_total{{mode!="idle"}}{RATE}))'),
                    unit=Unit.RATIO,
                    description="100% is one processor. iowait: waiting for disks; steal: the host gives less.",
                    is_stacked=True,
                ),
                lines(
                    "Memory",
                    query("available", "sum(node_memory_MemAvailable_bytes)"),
                    query("total", "sum(node_memory_MemTotal_bytes)"),
                    query("caches", "sum(node_memory_Cached_bytes) + sum(node_memory_Buffers_bytes)"),
                    unit=Unit.BYTES,
                    description="Caches are given back when programs want the memory.",
                ),
                lines(
                    "Load",
                    query("1 min", "avg(node_load1)"),
                    query("5 min", "avg(node_load5)"),
                    query("processors", 'count(rate(node_cpu_seconds_total{mode="idle"}[1m]))'),
                    unit=Unit.NUMBER,
                    description="Processes that run or wait; more than processors is saturation.",
                ),
            ),
        ),
        Row(
            title="Disks and network",
            panels=(
                lines(
                    "Network",
                    query("in, {{device}}", f"sum by (device) (rate(node_network_receive_bytes_total{RATE}))"),
                    query("out, {{device}}", f"sum by (device) (rate(node_network_transmit_bytes_total{RATE}))"),
                    unit=Unit.BYTES_PER_SECOND,
                    description="lo is the stack talking with itself.",
                ),
                lines(
                    "Network errors",
                    query(
                        "received",
                        f"sum(rate(node_network_receive_errs_total{RATE})) + "
                        f"sum(rate(node_network_receive_drop_total{RATE}))",
                    ),
                    query(
                        "sent",
                        f"sum(rate(node_network_transmit_errs_total{RATE})) + "
                        f"sum(rate(node_network_transmit_drop_total{RATE}))",
                    ),
                    query("TCP segments sent again", f"sum(rate(node_netstat_Tcp_RetransSegs{RATE}))"),
                    unit=Unit.OPERATIONS_PER_SECOND,
                    description="Errors and drops per second.",
                ),
                bars(
                    "Disks in use",
                    query(
                        "{{mountpoint}}",
                        f"max by (mountpoint) (1 - node_filesystem_avail_bytes{{{_DISKS}}} "
                        f"/ (node_filesystem_size_bytes{{{_DISKS}}} > 0))",
                    ),
                    unit=Unit.RATIO,
                    description="By mount point.",
                    limits=Limits(warning=0.8, critical=0.9),
                ),
            ),
        ),
        Row(
            title="Our programs",
            panels=(
                lines(
                    "Processor, by program",
                    query(
                        "{{groupname}}",
                        f"sum by (groupname) (rate(namedprocess_namegroup_cpu_seconds_total{RATE}))",
                    ),
                    unit=Unit.RATIO,
                    description="100% is one processor.",
                    is_stacked=True,
                ),
                lines(
                    "Memory, by program",
                    query(
                        "{{groupname}}",
                        'sum by (groupname) (namedprocess_namegroup_memory_bytes{memtype="resident"})',
                    ),
                    unit=Unit.BYTES,
                    description="Resident; what processes share is counted in each.",
                    is_stacked=True,
                ),
                lines(
                    "Fullest table of file descriptors, by program",
                    query("{{groupname}}", "max by (groupname) (namedprocess_namegroup_worst_fd_ratio)"),
                    unit=Unit.RATIO,
                    description="Of what the process may open; at 100% it accepts no connection.",
                ),
                lines(
                    "Disk, by program",
                    query(
                        "{{groupname}} reads",
                        f"topk(5, sum by (groupname) (rate(namedprocess_namegroup_read_bytes_total{RATE})))",
                    ),
                    query(
                        "{{groupname}} writes",
                        f"topk(5, sum by (groupname) (rate(namedprocess_namegroup_write_bytes_total{RATE})))",
                    ),
                    unit=Unit.BYTES_PER_SECOND,
                    description="What reached the disks, not what was found in caches; five each.",
                    width=12,
                ),
                lines(
                    "Processes, by program",
                    query("{{groupname}}", "sum by (groupname) (namedprocess_namegroup_num_procs)"),
                    unit=Unit.NUMBER,
                    description="A worker has its children; PostgreSQL has one per client.",
                    width=12,
                ),
            ),
        ),
        Row(
            title="Containers, with Docker",
            panels=(
                lines(
                    "Processor, by container",
                    query(
                        "{{name}}",
                        f"sum by (name) (rate(container_cpu_usage_seconds_total{{{_CONTAINERS}}}{RATE}))",
                    ),
                    unit=Unit.RATIO,
                    description=f"100% is one processor. {DOCKER_ONLY} from cAdvisor.",
                    is_stacked=True,
                ),
                lines(
                    "Memory, by container",
                    query("{{name}}", f"sum by (name) (container_memory_working_set_bytes{{{_CONTAINERS}}})"),
                    unit=Unit.BYTES,
                    description=f"What the kernel cannot take back. {DOCKER_ONLY} from cAdvisor.",
                    is_stacked=True,
                ),
                lines(
                    "Held back or killed, by container",
                    query(
                        "{{name}} held back",
                        f"sum by (name) (rate(container_cpu_cfs_throttled_periods_total{{{_CONTAINERS}}}{RATE})) "
                        f"/ (sum by (name) (rate(container_cpu_cfs_periods_total{{{_CONTAINERS}}}{RATE})) > 0)",
                    ),
                    query(
                        "{{name}} killed",
                        f"sum by (name) (increase(container_oom_events_total{{{_CONTAINERS}}}[5m])) > 0",
                    ),
                    unit=Unit.NUMBER,
                    description="Share of the time that its processor limit held it back; times in 5 minutes "
                    f"that its memory limit killed a process. {DOCKER_ONLY} from cAdvisor.",
                ),
            ),
        ),
    ),
)
