"""The commands of ./stack for a stack of processes on this machine.

What belongs here: what each command does natively, in its order, and what it prints. How it is done is in the
modules that do it.
"""

import os
from collections.abc import Sequence

from rich.console import Console

from stack import environments, folders, lifecycle, logs, selftest, services, status
from stack.errors import UsageError
from stack.instance import Instance
from stack.progress import Board
from stack.records import Wanted
from stack.service import Service


class NativeStack:
    """A stack of processes, supervised in a state folder."""

    def __init__(self, instance: Instance, errors: Console) -> None:
        """Take the stack as it was last started, and where to say that a command was interrupted."""
        self.instance = instance
        self._errors = errors

    def up(self, names: Sequence[str], profiles: Sequence[str], console: Console) -> None:
        """Start the services (else the profiles) and what they need, and prove that it works."""
        instance = self.instance
        chosen = services.by_name(names) if names else _of_profiles(profiles)
        wanted = services.with_needs(chosen)
        # Those that this command starts in the background, and whether their environments must be made first.
        coming = {
            service.name: not environments.is_current(environments.of_service(service.name), instance)
            for service in wanted
            if service.in_background and not lifecycle.is_running(instance, [service])
        }
        was_running = lifecycle.is_running(instance, wanted)
        with Board((service.name for service in wanted), console) as board:
            try:
                instance = lifecycle.up(instance, chosen, os.environ, board)
            except KeyboardInterrupt:
                self._errors.print(
                    "Interrupted: what this command had started is stopped. To start it: ./stack up"
                )
                raise
        done = "Up already; checked" if was_running else "Up"
        console.print(f"[bold]{done}[/bold] after {board.elapsed:.1f} s.\n", highlight=False)
        status.show_links(instance, wanted, console)
        if services.PROJECT_API in wanted and services.PROJECT_WORKER in wanted:
            took = selftest.run(instance)
            console.print(
                f"Self-test: 6 x 7 through API, RabbitMQ, worker and Redis = 42, in {took * 1000:.0f} ms."
            )
        if services.PROMETHEUS in wanted:
            count, took = selftest.watch(instance, wanted)
            console.print(f"Monitoring: Prometheus scrapes {count} of {count} targets, after {took:.1f} s.")
        for name, is_new in coming.items():
            what = "is being installed (once) and started" if is_new else "starts"
            console.print(f"{name} {what} in the background: ./stack status says when it is ready.")

    def down(self, console: Console, *, volumes: bool) -> None:
        """Stop everything, with `volumes` delete the data too."""
        with Board((), console) as board:
            ran = lifecycle.down(self.instance, board)
            console.print(
                f"Down after {board.elapsed:.1f} s." if ran else "The stack was down already.", highlight=False
            )
        if volumes:
            for path in folders.delete_data(self.instance):
                console.print(f"deleted {path}", highlight=False)

    def status(self, console: Console) -> bool:
        """Print a line per service; return whether nothing is wrong."""
        return status.show(self.instance, console)

    def stop(self, names: Sequence[str], console: Console) -> None:
        """Stop services; the others go on."""
        chosen = services.by_name(names)
        with Board((service.name for service in chosen), console) as board:
            lifecycle.stop(self.instance, chosen, board)

    def start(self, names: Sequence[str], console: Console) -> None:
        """Start services of a stack that is up."""
        chosen = services.by_name(names)
        with Board((service.name for service in chosen), console) as board:
            lifecycle.start(self.instance, chosen, board)

    def restart(self, names: Sequence[str], console: Console) -> None:
        """Stop and start services again; without names, all that are not stopped on purpose."""
        chosen = services.by_name(names) if names else lifecycle.not_stopped(self.instance)
        with Board((service.name for service in chosen), console) as board:
            try:
                lifecycle.restart(self.instance, chosen, board)
            except KeyboardInterrupt:
                self._errors.print("Interrupted: some services may be stopped. To start them: ./stack up")
                raise
            console.print(f"Restarted after {board.elapsed:.1f} s.", highlight=False)

    def logs(
        self, names: Sequence[str], wanted: Wanted | None, *, lines: int, follow: bool, console: Console
    ) -> None:
        """Show what the services print; with ids, what all of them printed about these."""
        chosen = services.by_name(names) if names else list(services.SERVICES)
        if wanted is None:
            logs.show(self.instance, chosen, lines=lines, follow=follow, console=console)
        else:
            logs.find(self.instance, chosen, wanted, follow=follow, console=console)

    def scale(self, name: str, count: int, console: Console) -> None:  # noqa: ARG002 (as with Docker)
        """Refuse: natively there is one of each.

        Raises:
            UsageError: Always.
        """
        services.by_name([name])
        raise UsageError(
            f"natively there is one {name}",
            hint=f"more processes in it: ./stack down, then WORKER_CONCURRENCY={count} ./stack up\n"
            "more containers of it: ./stack up --docker, then the same command again",
        )

    def urls(self, console: Console) -> None:
        """Show what there is to open, and where the credentials are."""
        running = lifecycle.not_stopped(self.instance)
        status.show_links(self.instance, running or services.of_profiles([]), console)


def _of_profiles(names: Sequence[str]) -> list[Service]:
    chosen = services.of_profiles(names)
    if os.environ.get("STACK_RELOAD") == "0":
        return [service for service in chosen if service is not services.RELOAD]
    return chosen
