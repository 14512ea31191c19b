"""The dashboards as files: Grafana's JSON, one file each, committed in `infra/grafana/dashboards/`.

What belongs here: the list of dashboards, and how they are written.
"""

from collections.abc import Mapping
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import api, hosts, journey, monitoring, postgres, rabbitmq, redis, slos, workers
from dashboards.panels import build

BOARDS = (
    journey.BOARD,
    api.BOARD,
    workers.BOARD,
    rabbitmq.BOARD,
    postgres.BOARD,
    redis.BOARD,
    hosts.BOARD,
    monitoring.BOARD,
    slos.BOARD,
)
"""In the order of their numbers."""


def texts() -> Mapping[str, str]:
    """Return each file's name and text."""
    encoder = JSONEncoder(indent=2, sort_keys=True)
    return {
        f"{board.uid.removeprefix('fsfc-')}.json": encoder.encode(build(board).build()) + "\n" for board in BOARDS
    }


def write(folder: Path) -> list[Path]:
    """Write every dashboard, remove those that are none any more, and return what was written."""
    wanted = texts()
    for path in folder.glob("*.json"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text)
    return [folder / name for name in wanted]
