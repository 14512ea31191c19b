"""Redis from a project folder, on loopback, with a password that no command line shows.

What belongs here: everything native about Redis.
"""

import shutil
from pathlib import Path
from threading import Event

from stack import folders
from stack.instance import Instance

USER = "redis"


def find() -> Path | None:
    """Return the installed `redis-server`, or None."""
    program = shutil.which("redis-server")
    return Path(program) if program else None


def prepare(instance: Instance, _: Event) -> None:
    """Make the data folder and write the configuration."""
    folders.make_owned(instance.data("redis"), USER)
    folders.make_owned(instance.config("redis"), USER)
    lines = [
        "# --- this instance (written by ./stack)",
        f"bind {instance['REDIS_HOST']}",
        f"port {instance['REDIS_PORT']}",
        f'requirepass "{instance["REDIS_PASSWORD"]}"',
        f'dir "{instance.data("redis")}"',
    ]
    text = instance.template("redis", "redis.conf") + "\n" + "\n".join(lines) + "\n"
    folders.write_owned(_conf(instance), text, USER)


def command(instance: Instance) -> list[str]:
    """Return the server's command line."""
    return ["redis-server", str(_conf(instance))]


def _conf(instance: Instance) -> Path:
    return instance.config("redis") / "redis.conf"
