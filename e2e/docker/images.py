"""The images: ours from their Dockerfiles, and stand-ins for those that only a registry has.

How it works: `mmdebstrap` makes two small Debian systems, which become base images. One is the release that the
official Python images are made of, with its Python, which is of the series in .env; with PYTHON_VERSION=stand-in,
it is the Dockerfiles' `FROM python:${PYTHON_VERSION}-slim`, and they are built as they are. The other is the
release to come, whose servers are of the majors in .env; on it, `stand_ins/` makes one image per server, which
behaves as the official one does. What an engine has already is not made again.

What belongs here: which image is made from what.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from clone import REPOSITORY
from docker.engine import Engine

PYTHON_VERSION = "stand-in"
"""What compose.yaml and the Dockerfiles are given for PYTHON_VERSION."""

SERVERS = (
    "postgres",
    "redis",
    "rabbitmq",
    "prometheus",
    "alertmanager",
    "node-exporter",
    "postgres-exporter",
    "redis-exporter",
)
"""The targets of stand_ins/servers/Dockerfile."""

OURS = {
    "project-api": ("project-api/Dockerfile", "."),
    "project-worker": ("project-worker/Dockerfile", "."),
    "flower": ("infra/flower/Dockerfile", "infra/flower"),
}
"""Image: its Dockerfile and its build context, in the repository."""

SHARED = {
    "project-api": ("migrate", "elasticsearch-setup", "kibana-setup"),
    "project-worker": ("project-worker-pickle", "project-worker-reaper"),
}
"""Image: the services that build the same, under names of their own."""

_STAND_INS = Path(__file__).parent / "stand_ins"
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_LEFT_OUT = ("doc", "man", "info", "locale")
"""Folders of /usr/share that the official slim images leave out, too."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """A Debian system: its release and packages, a command run in it, and what its image says of itself."""

    tag: str
    suite: str
    packages: tuple[str, ...]
    command: str
    changes: tuple[str, ...]

    def recipe(self) -> list[str]:
        """Return the command line that writes it to standard output, as a tar file."""
        return [
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            # A suite that is still being made vouches for its list for a week; a mirror may be older.
            '--aptopt=Acquire::Check-Valid-Until "false"',
            *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _LEFT_OUT),
            f"--include={','.join(('ca-certificates', 'netbase', 'tzdata', *self.packages))}",
            # Whom this machine trusts: builds install from where this machine does.
            f'--customize-hook=cp {_CERTIFICATES} "$1{_CERTIFICATES}"',
            f'--customize-hook=chroot "$1" {self.command}',
            self.suite,
            "-",
        ]


PYTHON = Base(
    tag=f"python:{PYTHON_VERSION}-slim",
    suite="trixie",
    packages=("python3-venv",),
    command="python3 -m venv /usr/local",  # `python` and `pip` where the official image has them
    changes=(
        "ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8",
        f"ENV SSL_CERT_FILE={_CERTIFICATES}",
        'CMD ["python3"]',
    ),
)
SERVERS_BASE = Base(
    tag="stand-in/servers",
    suite="forky",
    packages=(
        "curl",
        "wget",
        "postgresql",
        "redis-server",
        "rabbitmq-server",
        "prometheus",
        "prometheus-alertmanager",
        "prometheus-node-exporter",
        "prometheus-postgres-exporter",
        "prometheus-redis-exporter",
    ),
    command="true",
    changes=("ENV LANG=C.UTF-8",),
)


def make_base(base: Base, engine: Engine) -> None:
    """Make a base image, unless the engine has one from the same recipe."""
    recipe = hashlib.sha256(shlex.join([*base.recipe(), *base.changes]).encode()).hexdigest()
    if engine.run("image", "ls", "--quiet", "--filter", f"label=recipe={recipe}", base.tag):
        return
    changes = [word for change in (*base.changes, f"LABEL recipe={recipe}") for word in ("--change", change)]
    with tempfile.TemporaryFile() as complaints:
        made = subprocess.Popen(base.recipe(), stdout=subprocess.PIPE, stderr=complaints)
        imported = subprocess.run(
            [engine.client, "import", *changes, "-", base.tag],
            env={**os.environ, **engine.environment},
            stdin=made.stdout,
            capture_output=True,
            check=False,
        )
        if made.stdout is not None:
            made.stdout.close()  # an import that has failed must not leave it waiting
        status = made.wait()
        complaints.seek(0)
        assert (status, imported.returncode) == (0, 0), complaints.read()[-2000:] + imported.stderr


def make_stand_ins(engine: Engine) -> None:
    """Build the images that stand in for the registry's."""
    make_base(PYTHON, engine)
    make_base(SERVERS_BASE, engine)
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder) / "stand_ins"
        shutil.copytree(_STAND_INS, context)
        shutil.copy(REPOSITORY / "infra/pgadmin/requirements.lock", context / "pgadmin")
        for name in SERVERS:
            _build(engine, f"stand-in/{name}", context / "servers", f"--target={name}")
        _build(engine, "stand-in/pgadmin", context / "pgadmin", f"--build-arg=PYTHON_IMAGE={PYTHON.tag}")


def make_ours(engine: Engine, repository: Path, version: str) -> None:
    """Build our own images from a working tree, under the names that its compose.yaml gives them."""
    for name, (file, context) in OURS.items():
        _build(
            engine,
            ours(name, version),
            repository / context,
            f"--file={repository / file}",
            f"--build-arg=PYTHON_VERSION={PYTHON_VERSION}",
            *(f"--tag={ours(service, version)}" for service in SHARED.get(name, ())),
        )


def ours(name: str, version: str) -> str:
    """Return the name that compose.yaml gives one of our images."""
    return f"full-stack-fastapi-celery/{name}:{version}"


def size(engine: Engine, image: str) -> float:
    """Return an image's size, in MB of its unpacked files."""
    return int(engine.run("image", "inspect", "--format={{.Size}}", image)) / 1e6


def _build(engine: Engine, tag: str, context: Path, *options: str) -> None:
    # On the host's network, as packages are installed: a machine may reach its index from there only.
    engine.run("build", "--network=host", f"--tag={tag}", *options, str(context), timeout=900)
