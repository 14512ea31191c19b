"""What services and Docker are known to say when they cannot work, and what to do then.

How it works: patterns, looked for in the last lines of whatever failed; all that match give their advice.

What belongs here: entries. Each was seen, or stands in the program's source or documentation.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """Something that is said, and what to do about it."""

    said: re.Pattern[str]
    advice: str


OLD_DATABASE = """\
the volume's database was made by an older PostgreSQL, which this one does not read. To keep the data, dump it
with the older version and load it into this one: docs/how-to/upgrade.md.
To start over without it: ./stack down --volumes"""

MAP_COUNT = """\
Elasticsearch maps many files: sudo sysctl -w vm.max_map_count=1048576, and to keep it after a reboot:
echo vm.max_map_count=1048576 | sudo tee /etc/sysctl.d/99-elasticsearch.conf
Docker Desktop on Windows: wsl -d docker-desktop -u root sysctl -w vm.max_map_count=1048576"""

MEMORY = """\
it was killed: for want of memory, or by hand. More of it: Docker Desktop: Settings, Resources; WSL: memory= in
.wslconfig; on Linux: fewer profiles (./stack up --docker --profile core). Its own limit is in compose.yaml"""

TROUBLES = (
    Trouble(
        said=re.compile(
            r"data(base)? directory was initialized by PostgreSQL version \d+"
            r"|database files are incompatible with server"
            r"|in 18\+, these Docker images are configured to store database data",
            re.IGNORECASE,
        ),
        advice=OLD_DATABASE,
    ),
    Trouble(said=re.compile(r"vm\.max_map_count|OutOfMemoryError: Map failed"), advice=MAP_COUNT),
    Trouble(
        said=re.compile(r"OutOfMemoryError|Cannot allocate memory|exit(ed)?( code)? \(?137\b", re.IGNORECASE),
        advice=MEMORY,
    ),
    Trouble(
        said=re.compile(
            r"password authentication failed|invalid username-password pair|ACCESS_REFUSED"
            r"|user '\S+' - invalid credentials|WRONGPASS"
        ),
        advice="the data in the volumes was made with another login. Put the earlier one back (.env, or your "
        "environment),\nor start over without the data: ./stack down --volumes",
    ),
    Trouble(
        said=re.compile(r"is mounted on \S+ but it is not a shared or slave mount"),
        advice="Mac and WSL have no `rslave` mounts: take that word out of your change to compose.yaml",
    ),
    Trouble(
        said=re.compile(r"exec format error|no matching manifest for"),
        advice="the image is for another kind of processor: docker image rm it, and let Docker fetch its own;\n"
        "all images of compose.yaml exist for amd64 and arm64",
    ),
    Trouble(
        said=re.compile(r"address already in use|port is already allocated|ports are not available"),
        advice="another program has that port: sudo ss -ltnp (Mac: lsof -nP -iTCP -sTCP:LISTEN). "
        "Or move all of ours: STACK_PORT_OFFSET=100 ./stack up --docker",
    ),
    Trouble(
        said=re.compile(r"no space left on device", re.IGNORECASE),
        advice="Docker's disk is full: docker system df shows with what; then docker image prune",
    ),
    Trouble(
        said=re.compile(
            r"no such host|i/o timeout|TLS handshake|connection refused.*/v2/|x509:|Client\.Timeout"
            r"|pull access denied|failed to resolve reference|toomanyrequests|manifest unknown",
            re.IGNORECASE,
        ),
        advice="the image cannot be fetched. Is the network there, and a proxy set for Docker's engine "
        "(https://docs.docker.com/engine/daemon/proxy)?\nToo many requests: docker login. Without Docker: "
        "./stack up --native",
    ),
    Trouble(
        said=re.compile(r"[Mm]ounts denied|file sharing|[Aa]re you trying to mount a directory onto a file"),
        advice="Docker does not see the clone's files: Docker Desktop: Settings, Resources, File sharing; "
        "on Windows, clone inside WSL's own disk, not under /mnt/c",
    ),
    Trouble(
        said=re.compile(r"error gathering device information.*/dev/kmsg"),
        advice="cAdvisor cannot run here, all else can: docker compose -p local-dev up -d --scale cadvisor=0",
    ),
    Trouble(
        said=re.compile(r"compose build requires buildx|BuildKit is enabled but the buildx"),
        advice="the plugin buildx builds images: install docker-buildx-plugin (Debian, Ubuntu: docker-buildx)",
    ),
)


def advice(lines: Iterable[str]) -> list[str]:
    """Return what to do about what the lines say; nothing when nothing in them is known."""
    text = "\n".join(lines)
    return [trouble.advice for trouble in TROUBLES if trouble.said.search(text)]
