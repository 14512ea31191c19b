"""The commands of ./stack for a stack in containers.

How it works: each command is one call of Compose with what `memory.py` remembers, watched by `waiting.py`. `up`
first looks whether the engine answers and the ports are free, as their owners' names are worth more than Docker's
refusal; it ends with the links and the same self-test as natively.

What belongs here: what each command does, in its order.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from stack import lifecycle, selftest, services, settings
from stack.docker import compose as compose_program
from stack.docker import host_ports, links, logs, memory, model
from stack.docker.compose import Compose
from stack.docker.containers import Container, Verdict, verdict
from stack.docker.memory import Memory
from stack.docker.model import Declared
from stack.docker.waiting import Run
from stack.errors import StackError, UsageError
from stack.instance import Instance
from stack.ports import Port
from stack.progress import Board
from stack.records import Wanted
from stack.servers import receivers
from stack.supervision import Supervisor

PORTS = (*services.PORTS, Port(variable="CADVISOR_PORT", default=8080, purpose="cAdvisor"))
"""What STACK_PORT_OFFSET moves."""

_HEALTH = re.compile(r" \((healthy|unhealthy|health: starting)\)")  # the state says it
_ALL_PROFILES = ("--profile", "*")


class DockerStack:
    """A stack of containers: one project of Compose, remembered in a state folder."""

    def __init__(self, repository: Path, state: Path, remembered: Memory, errors: Console) -> None:
        """Take what it was or is to be started with, and where to say that a command was interrupted.

        Raises:
            MachineNotReadyError: There is no Compose, or only one that is too old.
        """
        self._repository = repository
        self._state = state
        self._memory = remembered
        self._errors = errors
        words, _ = compose_program.find()
        self._compose = Compose(words, repository, remembered)

    @property
    def instance(self) -> Instance:
        """The stack's settings, with the names that the rest of ./stack knows them by."""
        values = {**settings.defaults(PORTS), **memory.values(self._memory, self._repository)}
        return Instance(repository=self._repository, state=self._state, values=values)

    def up(self, names: Sequence[str], console: Console, *, build: bool = False) -> None:
        """Start the services and what they need, those of the profiles without names, and prove that they work.

        Args:
            names: The services to start.
            console: Where progress and links are shown.
            build: Make our images anew first; else they are made where they are not there.

        Raises:
            MachineNotReadyError: The engine does not answer, or a port is taken.
            StackError: A service does not get well, or the self-test fails.
            KeyboardInterrupt: The user gave up; what had not been up before is down again.
        """
        before = self._containers()
        declared = model.read(self._compose.configuration())
        wanted = self._wanted(declared, names)
        if Supervisor(self.instance).is_up:
            raise StackError(
                "the stack is up natively", hint="to change over: ./stack down, then ./stack up --docker"
            )
        with lifecycle.exclusive(self.instance), Board((service.name for service in wanted), console) as board:
            ours = {number for container in before for number in container.ports}
            for service in wanted:
                host_ports.require_free(service, self.instance.values, ours)
            self._write_receivers()
            memory.write(self._state, self._memory)
            profiles = [word for profile in _profiles(wanted) for word in ("--profile", profile)] if names else []
            scale = [
                f"--scale={service.name}={self._memory.scale[service.name]}"
                for service in wanted
                if service.name in self._memory.scale
            ]
            options = ["--detach", *(["--build"] if build else []), *scale]
            try:
                self._run(wanted, board).until_well(*profiles, "up", *options, *names)
            except KeyboardInterrupt:
                if not before:
                    self._run([], board).until_ended(*_ALL_PROFILES, "down")
                    memory.path(self._state).unlink()
                    self._receivers.unlink(missing_ok=True)
                    self._errors.print("Interrupted: what this command had started is down again.")
                raise
        console.print(f"[bold]Up[/bold] with Docker after {board.elapsed:.1f} s.\n", highlight=False)
        self._show_links(console)
        self._prove(declared, console)

    def down(self, console: Console, *, volumes: bool) -> None:
        """Stop and remove every container and network, with `volumes` the data too.

        Raises:
            StackError: Something is left.
        """
        before = self._containers()
        ours = [service for service in self._services() if any(c.service == service.name for c in before)]
        with lifecycle.exclusive(self.instance), Board((s.name for s in ours), console) as board:
            run = self._run(ours, board)
            run.until_ended(*_ALL_PROFILES, "down", "--remove-orphans", *(["--volumes"] if volumes else []))
            if left := self._containers():
                names = ", ".join(container.name for container in left)
                raise StackError(f"containers are left: {names}", hint=f"docker rm --force {names}")
            memory.path(self._state).unlink(missing_ok=True)
            self._receivers.unlink(missing_ok=True)
            said = f"Down after {board.elapsed:.1f} s." if before else "The stack was down already."
            console.print(said, highlight=False)
            for volume in re.findall(r"Volume (\S+)\s+Removed", "\n".join(run.said())):
                console.print(f"deleted volume {volume}", highlight=False)

    def status(self, console: Console) -> bool:
        """Print a line per service.

        Returns:
            Whether nothing is wrong: what was stopped on purpose is not.
        """
        containers = self._containers()
        table = Table(box=None, pad_edge=False, header_style="bold")
        for title in ("SERVICE", "STATE", "CONTAINERS", "DOCKER SAYS", "PORTS"):
            table.add_column(title, overflow="fold", no_wrap=title == "SERVICE")
        verdicts = []
        for service in self._services():
            ours = [container for container in containers if container.service == service.name]
            if not ours:
                continue
            one = verdict(service, ours)
            verdicts.append(one)
            numbers = sorted({number for container in ours for number in container.ports})
            colour = "green" if one.is_well else "red" if one.is_bad else "default"
            table.add_row(
                service.name,
                f"[{colour}]{one.value}[/{colour}]",
                str(len(ours)),
                "; ".join(dict.fromkeys(_HEALTH.sub("", container.status) for container in ours)),
                " ".join(map(str, numbers)) or "-",
            )
        if verdicts:
            console.print(table)
        else:
            console.print("The stack is down. To start it: ./stack up --docker")
        console.print(f"With Docker: {self._compose.shown} ps", highlight=False, soft_wrap=True)
        return all(one.is_well or one is Verdict.STOPPED for one in verdicts)

    def stop(self, names: Sequence[str], console: Console) -> None:
        """Stop services; the others go on.

        Raises:
            StackError: The stack is down.
        """
        chosen = self._chosen(names)
        with lifecycle.exclusive(self.instance), Board(names, console) as board:
            self._run(chosen, board).until_ended(*_ALL_PROFILES, "stop", *names)

    def start(self, names: Sequence[str], console: Console) -> None:
        """Start services of a stack that is up, and wait until each is well.

        Raises:
            StackError: The stack is down, or one does not get well.
        """
        chosen = self._chosen(names)
        with lifecycle.exclusive(self.instance), Board(names, console) as board:
            self._run(chosen, board).until_well(*_ALL_PROFILES, "start", *names)

    def restart(self, names: Sequence[str], console: Console) -> None:
        """Stop and start services, and wait until each is well; without names, all that are not stopped.

        Raises:
            StackError: The stack is down, or one does not get well.
        """
        running = {container.service for container in self._containers() if container.state == "running"}
        chosen = self._chosen(names or sorted(running))
        names = [service.name for service in chosen]
        with lifecycle.exclusive(self.instance), Board(names, console) as board:
            self._run(chosen, board).until_well(*_ALL_PROFILES, "restart", "--no-deps", *names)
        console.print(f"Restarted after {board.elapsed:.1f} s.", highlight=False)

    def logs(
        self, names: Sequence[str], wanted: Wanted | None, *, lines: int, follow: bool, console: Console
    ) -> None:
        """Show what the services print; with ids, what all of them printed about these."""
        model.require({service.name: service for service in self._services()}, names)
        if wanted is None:
            logs.show(self._compose, names, lines=lines, follow=follow, console=console)
        else:
            logs.find(self._compose, names, wanted, follow=follow, console=console)

    def scale(self, name: str, count: int, console: Console) -> None:
        """Have `count` containers of a service, and wait until each is well. Later `up`s keep their number.

        Raises:
            UsageError: There can be only one, as it has a port of this machine.
            StackError: The stack is down, or one does not get well.
        """
        (service,) = self._chosen([name])
        if count > 1 and (service.ports or service.is_one_shot):
            raise UsageError(
                f"there can be only one {name}: " + ("it has a port" if service.ports else "it runs once"),
                hint="./stack scale project-worker=3",
            )
        with lifecycle.exclusive(self.instance), Board([name], console) as board:
            options = ["--detach", "--no-deps", "--no-recreate", f"--scale={name}={count}"]
            self._run([service] if count else [], board).until_well(*_ALL_PROFILES, "up", *options, name)
            memory.write(self._state, self._memory.scaled(name, count))
        console.print(f"{name}: {count} after {board.elapsed:.1f} s.", highlight=False)

    def urls(self, console: Console) -> None:
        """Show what there is to open, with logins."""
        self._show_links(console)

    def _wanted(self, declared: Mapping[str, Declared], names: Sequence[str]) -> list[Declared]:
        if names:
            chosen = model.with_needs(declared, names)
        else:
            chosen = model.of_profiles(declared, memory.profiles(self.instance.values))
        return [declared[name] for name in chosen]

    def _chosen(self, names: Iterable[str]) -> list[Declared]:
        """Return the services with these names, of a stack that is up."""
        declared = model.read(self._compose.configuration())
        names = list(names)
        model.require(declared, names)
        if not self._containers():
            line = " ".join(["./stack up --docker", *names])
            raise StackError("the stack is down", hint=f"to start it: {line}")
        return [declared[name] for name in declared if name in names]

    def _services(self) -> list[Declared]:
        return list(model.read(self._compose.configuration()).values())

    def _containers(self) -> list[Container]:
        return [Container.of(said) for said in self._compose.containers()]

    def _run(self, chosen: Sequence[Declared], board: Board) -> Run:
        return Run(self._compose, chosen, self.instance.log("compose"), board)

    @property
    def _receivers(self) -> Path:
        return self.instance.config("docker") / "alertmanager.yml"

    def _write_receivers(self) -> None:
        """Give Alertmanager a configuration that tells whoever the ALERT_ variables name, if they do."""
        values = self.instance.values
        if not any(values.get(name) for name in settings.OPTIONAL if name.startswith("ALERT_")):
            return
        text = receivers.add(self.instance.template("alertmanager", "alertmanager.yml"), values)
        path = self._receivers
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o700)  # it has their secrets, and Docker mounts the file itself
        path.write_text(text)
        path.chmod(0o644)  # the container's user is nobody of this machine
        environment = {**self._memory.environment, "ALERTMANAGER_CONFIG": str(path)}
        self._memory = Memory(environment=environment, scale=self._memory.scale)
        self._compose = Compose(self._compose.words, self._repository, self._memory)

    def _show_links(self, console: Console) -> None:
        running = [container.service for container in self._containers() if container.state == "running"]
        # What has no port on this machine has nothing to open here.
        to_open = [service.name for service in self._services() if service.name in running and service.ports]
        links.show(to_open, self.instance.values, console)
        console.print(f"All settings: {self._repository / '.env'}", soft_wrap=True, highlight=False)

    def _prove(self, declared: Mapping[str, Declared], console: Console) -> None:
        containers = self._containers()
        running = {name for name, service in declared.items() if verdict(service, containers).is_well}
        if {"project-api", "project-worker"} <= running:
            took = selftest.run(self.instance)
            console.print(
                f"Self-test: 6 x 7 through API, RabbitMQ, worker and Redis = 42, in {took * 1000:.0f} ms."
            )
        if "prometheus" in running:
            absent = set(declared) - running
            count, took = selftest.watch_by_name(self.instance, running, absent)
            console.print(f"Monitoring: Prometheus scrapes {count} of {count} targets, after {took:.1f} s.")


def _profiles(wanted: Iterable[Declared]) -> list[str]:
    return sorted({profile for service in wanted for profile in service.profiles})
