"""Dead letters on the command line: what could not be worked, and what is to become of it.

How it works: asks the running API (`/v1/dead-letters`), which knows how to read them; nothing here speaks to the
broker.

What belongs here: asking and showing.
"""

import json
import urllib.error
import urllib.request
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from rich.console import Console

from stack.docker import memory
from stack.errors import StackError
from stack.instance import Instance
from stack.supervision import Supervisor

_PATIENCE = 15.0  # s; the API itself gives up after 10
_MOST_SHOWN = 100  # the API's own limit for one page


def show_all(instance: Instance, console: Console) -> None:
    """Print a line per dead letter, the oldest first.

    Raises:
        StackError: the API does not answer, or cannot.
    """
    page = _ask(instance, "GET", f"?limit={_MOST_SHOWN}")
    if not page["dead_letters"]:
        console.print("There are no dead letters.")
        return
    rows = [("ID", "DIED", "TASK", "ERROR", "REASON")]
    for letter in page["dead_letters"]:
        name = letter["name"] or "-"
        rows.append((letter["id"], _time(letter), name, letter["error"]["type"], letter["reason"]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        # Plain lines: a table would cut ids to fit a narrow terminal.
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        console.print(line.rstrip(), soft_wrap=True, highlight=False, markup=False)
    if page["more"]:
        console.print(f"These are the oldest {_MOST_SHOWN}; there are others.")


def show(instance: Instance, letter_id: str, console: Console) -> None:
    """Print all that is known of one dead letter.

    Raises:
        StackError: there is none of this id, or the API does not answer.
    """
    letter = _ask(instance, "GET", f"/{quote(letter_id, safe='')}")
    lines = {
        "id": letter["id"],
        "task": letter["name"],
        "died": _time(letter),
        "queue": letter["queue"],
        "reason": letter["reason"],
        "error": f"{letter['error']['type']}: {letter['error']['message']}",
        "runs": letter["attempts"],
        "arguments": letter["arguments"],
        "keyword arguments": letter["keyword_arguments"],
        "body": f"{letter['size']} bytes of {letter['content_type'] or 'unknown type'}",
    }
    width = max(map(len, lines))
    for title, value in lines.items():
        text = "-" if value is None else value
        console.print(f"{title:<{width}}  {text}", soft_wrap=True, highlight=False, markup=False)


def replay(instance: Instance, letter_id: str, console: Console) -> None:
    """Have a dead letter's task sent again; print where to follow it.

    Raises:
        StackError: there is none of this id, it cannot run, or the API does not answer.
    """
    task = _ask(instance, "POST", f"/{quote(letter_id, safe='')}/replay")
    console.print(
        f"sent again: task {task['id']}\nto follow it: {_api(instance)}/v1/tasks/{quote(task['id'], safe='')}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def delete(instance: Instance, letter_id: str, console: Console) -> None:
    """Delete a dead letter.

    Raises:
        StackError: there is none of this id, or the API does not answer.
    """
    _ask(instance, "DELETE", f"/{quote(letter_id, safe='')}")
    console.print(f"deleted {letter_id}", soft_wrap=True, highlight=False, markup=False)


def delete_all(instance: Instance, console: Console) -> None:
    """Delete all dead letters.

    Raises:
        StackError: the API does not answer.
    """
    deleted = _ask(instance, "DELETE", "?confirm=all")["deleted"]
    console.print(f"deleted {deleted} dead letters", highlight=False)


def _time(letter: dict[str, Any]) -> str:
    return str(letter["died_at"])[:19].replace("T", " ") + "Z"


def _api(instance: Instance) -> str:
    return f"http://127.0.0.1:{instance['API_PORT']}"


def _ask(instance: Instance, method: str, path: str) -> Any:
    """Return the API's answer.

    Raises:
        StackError: it does not answer, or with an error.
    """
    # Asked first: what else may answer at that port is not to be told to delete anything.
    if memory.read(instance.state) is None and not Supervisor(instance).is_up:
        raise StackError("the stack is down", hint="to start it: ./stack up")
    request = urllib.request.Request(_api(instance) + "/v1/dead-letters" + path, method=method)  # noqa: S310 (http://)
    # Without proxies from the environment: the address is this machine's.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_PATIENCE) as response:
            body = response.read()
            return json.loads(body) if body else None
    except urllib.error.HTTPError as error:
        with error:
            known = error.code == HTTPStatus.NOT_FOUND
            hint = "to see what there is: ./stack dead-letters" if known else "look at ./stack status"
            raise StackError(_detail(error), hint=hint) from error
    except OSError as error:  # includes URLError and timeouts
        raise StackError(
            f"the API does not answer at {_api(instance)}: {error}", hint="look at ./stack status"
        ) from error


def _detail(error: urllib.error.HTTPError) -> str:
    """Return what the problem document says."""
    body = error.read(10_000).decode(errors="replace")
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return f"the API answers HTTP {error.code}: {body[:500]}"
