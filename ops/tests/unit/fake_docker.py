"""A `docker` for tests: Compose's and the engine's answers as they were recorded, over containers in a file.

    python fake_docker.py MACHINE docker compose -p local-dev up --detach

How it works: MACHINE is a folder. `containers` has the state of each service; `calls` gets a line per call, and
`environment` the last one's environment; `trouble` says what goes wrong (see the tests).
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ONE_SHOTS = ("migrate",)
NEEDS = {"rabbitmq": [], "migrate": ["rabbitmq"], "project-api": ["migrate"], "flower": ["rabbitmq"]}
PORTS = {"project-api": ("API_PORT", 5000), "flower": ("FLOWER_PORT", 5555)}
VOLUMES = {"rabbitmq": "rabbitmq-data"}


def main(machine: Path, words: list[str]) -> int:
    """Answer one call; returns its exit code."""
    with (machine / "calls").open("a") as calls:
        calls.write(json.dumps(words) + "\n")
    trouble = json.loads((machine / "trouble").read_text()) if (machine / "trouble").exists() else {}
    if words == ["version", "--short"]:
        version = trouble.get("version", "5.6.1")
        print(version or "unknown flag: --short", file=sys.stdout if version else sys.stderr)
        return 0 if version else 125
    if "config" in words:  # the one question that Compose answers without the engine
        print(json.dumps(configuration()))
        return 0
    if "engine" in trouble:
        print(trouble["engine"], file=sys.stderr)
        return 1
    return answer(machine, words, trouble)


def answer(machine: Path, words: list[str], trouble: dict[str, Any]) -> int:
    """Answer what only a running engine can."""
    file = machine / "containers"
    containers = json.loads(file.read_text()) if file.exists() else {}
    if words[0] == "info":
        engine = {"ServerVersion": "20.10.24", "OperatingSystem": "Debian GNU/Linux 12", "MemTotal": 8 * 1024**3}
        print(json.dumps(engine | trouble.get("info", {}) | {"DockerRootDir": "/nonexistent"}))
    elif words[0] == "volume":
        print("")
    elif "ps" in words and (machine / "vanishing").exists():
        (machine / "vanishing").unlink()
        print("Error response from daemon: No such container: f6015123c608", file=sys.stderr)
        return 1
    elif "ps" in words:
        for name, state in containers.items():
            for number in range(1, state.get("count", 1) + 1):
                print(json.dumps(container(name, number, state)))
    elif "logs" in words:
        for name in [name for name in NEEDS if name in words] or list(containers):
            front = "" if "--no-log-prefix" in words else f"{name}-1  | "
            print(f"{front}{trouble.get('says', f'{name} speaks')}")
    elif "down" in words:
        print(" Container local-dev-rabbitmq-1  Removed")
        if "--volumes" in words:
            print(" Volume local-dev_rabbitmq-data  Removed")
        file.unlink(missing_ok=True)
    else:
        (machine / "environment").write_text(json.dumps(dict(os.environ)))
        return change(file, containers, words, trouble)
    return 0


def change(file: Path, containers: dict[str, Any], words: list[str], trouble: dict[str, Any]) -> int:
    """Start or stop containers as the words say."""
    command = next(word for word in words if word in ("up", "start", "stop", "restart"))
    named = [name for name in NEEDS if name in words]
    if "refuses" in trouble:
        if "leftover" in trouble:
            containers[trouble["leftover"]] = {"state": "exited", "code": 7}
            write(file, containers)
        print(f"{trouble['refuses']}")
        return 1
    for name in named or [name for name in NEEDS if name != "flower" or settings()["COMPOSE_PROFILES"]]:
        if command == "stop":
            containers[name] = {"state": "exited", "code": 143}
        elif name == trouble.get("fails"):
            containers[name] = {"state": "exited", "code": trouble["code"]}
        elif name == trouble.get("crashes"):
            containers[name] = {"state": "restarting", "code": 3}
        elif name == trouble.get("unhealthy"):
            containers[name] = {"state": "running", "health": "unhealthy"}
        elif name in ONE_SHOTS:
            containers[name] = {"state": "exited", "code": 0}
        else:
            containers[name] = {"state": "running", "health": "healthy"}
            front = f"--scale={name}="
            scale = [word.removeprefix(front) for word in words if word.startswith(front)]
            containers[name]["count"] = int(scale[0]) if scale else 1
        write(file, containers)
    if "slow" in trouble:
        time.sleep(60)  # until it is ended
    if "fails" in trouble and "nobody_needs_it" not in trouble:
        print(f'service "{trouble["fails"]}" didn\'t complete successfully: exit {trouble["code"]}')
        return 1
    return 0


def write(file: Path, containers: dict[str, Any]) -> None:
    """Write the containers' states, whole: a `ps` may read them at any moment."""
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(containers))
    fresh.replace(file)


def container(name: str, number: int, state: dict[str, Any]) -> dict[str, Any]:
    """Return a line of `ps --format json`, but for what nobody reads."""
    code = state.get("code", 0)
    health = state.get("health", "")
    status = {"exited": f"Exited ({code}) 2 seconds ago", "restarting": f"Restarting ({code}) 1 second ago"}
    published = [
        {"URL": "127.0.0.1", "TargetPort": target, "PublishedPort": int(settings()[variable])}
        for variable, target in [PORTS[name]]
    ] if name in PORTS and state["state"] == "running" else []  # fmt: skip
    return {
        "Service": name,
        "Name": f"local-dev-{name}-{number}",
        "Project": "local-dev",
        "State": state["state"],
        "Health": health,
        "ExitCode": code,
        "Status": status.get(state["state"], f"Up 4 seconds ({health})"),
        "Publishers": published,
    }


def settings() -> dict[str, str]:
    """Return `.env`, and what the environment has instead."""
    return dict(line.split("=", 1) for line in Path(".env").read_text().splitlines()) | dict(os.environ)


def configuration() -> dict[str, Any]:
    """Return what `config --format json` answers."""
    values = settings()
    services: dict[str, Any] = {}
    for name, needs in NEEDS.items():
        services[name] = {
            "image": f"{name}:18.6",
            "restart": "no" if name in ONE_SHOTS else "unless-stopped",
            "depends_on": {need: {"condition": "service_healthy"} for need in needs},
            "deploy": {"resources": {"limits": {"memory": str(1024**3)}}},
        }
        if name in PORTS:
            variable, target = PORTS[name]
            services[name]["ports"] = [{"host_ip": "127.0.0.1", "published": values[variable], "target": target}]
        if name in VOLUMES:
            services[name]["volumes"] = [{"type": "volume", "source": VOLUMES[name], "target": "/data"}]
    services["flower"]["profiles"] = ["monitoring"]
    return {"services": services, "volumes": {name: {"name": f"local-dev_{name}"} for name in VOLUMES.values()}}


if __name__ == "__main__":
    at = 3 if sys.argv[2:4] != ["docker", "compose"] else 4
    sys.exit(main(Path(sys.argv[1]), sys.argv[at:]))
