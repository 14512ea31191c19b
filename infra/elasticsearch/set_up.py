"""What Elasticsearch and Kibana are given once they answer: `python set_up.py elasticsearch`, or `kibana`.

How it works: `elasticsearch` puts our component template, and gives Kibana's account its password where
Elasticsearch asks for one. `kibana` imports the data view, the searches and the dashboard. Each request says how
things shall be, not how to change them: it may be killed and run again, also beside itself. Until a server
answers, it is asked again. Python's own library does: it runs in the projects' image, and natively.

What belongs here: what both start modes do alike. Who calls it: the one-shots `elasticsearch-setup` and
`kibana-setup` of compose.yaml, and `ops/stack/servers/elastic.py`.

Its environment: ELASTICSEARCH_URL, KIBANA_URL; ELASTIC_PASSWORD and KIBANA_SYSTEM_PASSWORD (neither where no
login is asked for); SET_UP_DEADLINE, in seconds.
"""

import base64
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path

INFRA = Path(__file__).resolve().parents[1]
TEMPLATE = INFRA / "elasticsearch" / "logs@custom.json"
SAVED_OBJECTS = INFRA / "kibana" / "saved-objects.ndjson"

DEADLINE = 300.0
"""Seconds until it gives up, unless SET_UP_DEADLINE says others: Kibana's first start takes minutes."""
PAUSE = 1.0
"""Seconds between two tries."""
TIMEOUT = 30.0
"""Seconds that one request may take."""
BUSY = frozenset({408, 429, 500, 502, 503, 504})
"""Answers of a server that is not there yet. Anything else will not change by itself."""
BOUNDARY = "saved-objects-of-the-projects"


class SetUpError(Exception):
    """A server has refused something, or has not answered in time; the message says which and what."""


def set_up_elasticsearch(environment: Mapping[str, str]) -> None:
    """Put the template; give Kibana's account its password, if there is one.

    Raises:
        SetUpError: it refused, or did not answer in time.
    """
    url = environment["ELASTICSEARCH_URL"].rstrip("/")
    until = _deadline(environment)
    send(environment, "PUT", f"{url}/_component_template/logs@custom", TEMPLATE.read_bytes(), until=until)
    if password := environment.get("KIBANA_SYSTEM_PASSWORD"):
        body = json.dumps({"password": password}).encode()
        send(environment, "POST", f"{url}/_security/user/kibana_system/_password", body, until=until)


def set_up_kibana(environment: Mapping[str, str]) -> None:
    """Import the saved objects, over those of an earlier import.

    Raises:
        SetUpError: it refused, did not answer in time, or left some out.
    """
    url = environment["KIBANA_URL"].rstrip("/")
    body = (
        f"--{BOUNDARY}\r\n"
        f'Content-Disposition: form-data; name="file"; filename="{SAVED_OBJECTS.name}"\r\n'
        "Content-Type: application/ndjson\r\n\r\n"
        f"{SAVED_OBJECTS.read_text()}\r\n--{BOUNDARY}--\r\n"
    ).encode()
    answer = send(
        environment,
        "POST",
        f"{url}/api/saved_objects/_import?overwrite=true",
        body,
        media_type=f"multipart/form-data; boundary={BOUNDARY}",
        until=_deadline(environment),
    )
    outcome = json.loads(answer)
    if not outcome.get("success"):  # it answers 200 even where it has imported nothing
        raise SetUpError(f"Kibana has not imported all of {SAVED_OBJECTS.name}: {outcome.get('errors')}")


def send(
    environment: Mapping[str, str],
    method: str,
    url: str,
    body: bytes,
    *,
    media_type: str = "application/json",
    until: float,
) -> bytes:
    """Send a request until it is answered; return the answer.

    Args:
        environment: has ELASTIC_PASSWORD, if a login is asked for.
        method: of HTTP.
        url: where to.
        body: what.
        media_type: the body's.
        until: when to give up, of `time.monotonic`.

    Raises:
        SetUpError: it was refused, or not answered in time.
    """
    headers = {"Content-Type": media_type, "kbn-xsrf": "true"}  # Kibana takes no change without that one
    if password := environment.get("ELASTIC_PASSWORD"):
        headers["Authorization"] = "Basic " + base64.b64encode(f"elastic:{password}".encode()).decode()
    while True:
        request = urllib.request.Request(url, data=body, method=method, headers=headers)  # noqa: S310 (our own servers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310 (as above)
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            trouble = f"{error.code} {error.read(2000).decode(errors='replace')}"
            if error.code not in BUSY:
                raise SetUpError(f"{method} {url} was refused: {trouble}") from error
        except (OSError, HTTPException) as error:  # nobody listens yet, or it went away
            trouble = str(error)
        if time.monotonic() + PAUSE > until:
            raise SetUpError(f"{method} {url} was not answered in time: {trouble}")
        time.sleep(PAUSE)


def _deadline(environment: Mapping[str, str]) -> float:
    return time.monotonic() + float(environment.get("SET_UP_DEADLINE", DEADLINE))


WHAT: Mapping[str, Callable[[Mapping[str, str]], None]] = {
    "elasticsearch": set_up_elasticsearch,
    "kibana": set_up_kibana,
}


def main(words: list[str]) -> int:
    """Set one of them up; return the exit code."""
    if len(words) != 1 or words[0] not in WHAT:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        WHAT[words[0]](os.environ)
    except SetUpError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{words[0]} is set up", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
