"""Flower from PyPI, in an environment of its own, on loopback, with a login.

What belongs here: everything native about Flower. Its options are in `infra/flower/flowerconfig.py`.
"""

from threading import Event
from urllib.parse import quote

from stack import folders
from stack.instance import Instance


def prepare(instance: Instance, _: Event) -> None:
    """Make the folder of what it remembers."""
    folders.make_owned(instance.data("flower"), None)


def command(instance: Instance) -> list[str]:
    """Return Flower's command line."""
    program = instance.venv("flower") / "bin" / "celery"
    return [str(program), "flower", f"--conf={instance.repository / 'infra' / 'flower' / 'flowerconfig.py'}"]


def environment(instance: Instance) -> dict[str, str]:
    """Return where it listens, whom it lets in, how it reaches RabbitMQ: a command line would show secrets."""
    login = f"{quote(instance['RABBITMQ_USER'], safe='')}:{quote(instance['RABBITMQ_PASSWORD'], safe='')}"
    host, vhost = instance["RABBITMQ_HOST"], quote(instance["RABBITMQ_VHOST"], safe="")
    return {
        "CELERY_BROKER_URL": f"amqp://{login}@{host}:{instance['RABBITMQ_PORT']}/{vhost}",
        "FLOWER_BROKER_API": f"http://{login}@{host}:{instance['RABBITMQ_MANAGEMENT_PORT']}/api/",
        "FLOWER_ADDRESS": "127.0.0.1",
        "FLOWER_PORT": instance["FLOWER_PORT"],
        "FLOWER_BASIC_AUTH": f"{instance['FLOWER_USER']}:{instance['FLOWER_PASSWORD']}",
        "FLOWER_DB": str(instance.data("flower") / "state"),
    }
