"""The containers' lines, each with its container's name in front, as `./stack logs` shows them natively.

How it works: Compose gives the lines, with names; they are looked through and shown by the same code as the files
of a native stack.

What belongs here: reading Compose's `logs`. What lines mean is in `stack/records.py`, how they look in
`stack/log_lines.py`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console

from stack import records
from stack.docker.compose import Compose
from stack.errors import StackError
from stack.log_lines import Printer
from stack.records import Wanted, Wanting


def show(compose: Compose, names: Sequence[str], *, lines: int, follow: bool, console: Console) -> None:
    """Print the last `lines` lines of each container of the services; with `follow`, go on until Ctrl-C."""
    printer = Printer(_containers(compose, names), console)
    options = ["--follow"] if follow else []
    for name, line in _lines(compose, [*options, "--tail", str(lines), *names]):
        printer.show(name, line)


def find(compose: Compose, names: Sequence[str], wanted: Wanted, *, follow: bool, console: Console) -> None:
    """Print everything of the services that carries the wanted ids, by time; with `follow`, go on until Ctrl-C.

    Raises:
        StackError: There is nothing, and it is not followed.
    """
    containers = _containers(compose, names)
    printer = Printer(containers, console)
    gathered = defaultdict[str, list[str]](list)
    for name, line in _lines(compose, names):
        gathered[name].append(line)
    found = [
        record
        for name, lines in gathered.items()
        for record in records.split(name, lines)
        if wanted.is_in(record.lines)
    ]
    for record in sorted(found, key=lambda record: record.time):
        for line in record.lines:
            printer.show(record.program, line)
    if not found and not follow:
        raise StackError(
            f"no line carries {wanted.description}",
            hint="A request's id is in its answer's X-Request-ID, a task's id in the answer to what sent it.\n"
            "Old lines go: Docker keeps 30 MB of each container, and none of one that was removed.",
        )
    if follow:
        wanting = {name: Wanting(wanted) for name in containers}
        for name, line in _lines(compose, ["--follow", "--tail", "0", *names]):
            if wanting[name].takes(line):
                printer.show(name, line)


def _containers(compose: Compose, names: Sequence[str]) -> list[str]:
    """Return the containers' names as Compose's `logs` has them: the service's, and a number."""
    there = [said for said in compose.containers() if not names or said["Service"] in names]
    return sorted(said["Name"].removeprefix(f"{said['Project']}-") for said in there) or ["-"]


def _lines(compose: Compose, words: Iterable[str]) -> Iterator[tuple[str, str]]:
    with compose.stream("logs", "--no-color", *words) as lines:
        for line in lines:
            name, _, text = line.rstrip("\n").partition("| ")
            yield name.strip(), text
