"""Declarations: kombu's own requests, in its own order, once per set of names."""

from typing import Any

from amqp import serialization
from celery import Celery
from kombu import Exchange, Queue, binding
from kombu.transport.native_delayed_delivery import calculate_routing_key

from async_celery.topology import Topologies, Topology, without_delay


def celery_app(**conf: Any) -> Celery:
    app = Celery(broker="amqp://127.0.0.1:9", set_as_current=False)
    app.conf.update(conf)
    return app


FORMATS = {
    40 << 16 | 10: "BssbbbbbF",
    40 << 16 | 30: "BsssbF",
    50 << 16 | 10: "BsbbbbbF",
    50 << 16 | 20: "BsssbF",
}
NAMES = {40 << 16 | 10: "exchange", 40 << 16 | 30: "bind exchange", 50 << 16 | 10: "queue", 50 << 16 | 20: "bind"}


def told(topology: Topology) -> list[tuple[Any, ...]]:
    """Return the requests as (what, …arguments without the ticket)."""
    requests = []
    for request in topology.requests:
        values, _ = serialization.loads(FORMATS[request.id], request.arguments, 0)
        requests.append((NAMES[request.id], *values[1:]))
    return requests


def test_a_queue_is_declared_as_kombu_does() -> None:
    queue = Queue(
        "q",
        Exchange("e", type="topic"),
        routing_key="k",
        max_length=7,
        expires=1.5,
        queue_arguments={"x-queue-type": "quorum"},
        binding_arguments={"a": 1},
    )
    arguments = {"x-queue-type": "quorum", "x-max-length": 7, "x-expires": 1500}
    assert told(Topologies(celery_app()).of([queue], "", "q")) == [
        ("exchange", "e", "topic", False, True, False, False, False, {}),
        ("queue", "q", False, True, False, False, False, arguments),
        ("bind", "q", "e", "k", False, {"a": 1}),
    ]


def test_several_bindings_and_what_is_not_to_be_declared() -> None:
    queue = Queue("q", bindings=[binding(Exchange("e1"), "k1")], auto_delete=True)
    assert [request[:2] for request in told(Topologies(celery_app()).of([queue], "", "q"))] == [
        ("queue", "q"),
        ("exchange", "e1"),
        ("bind", "q"),
    ]
    assert told(Topologies(celery_app()).of([Queue("q", no_declare=True)], "", "q")) == []
    assert told(Topologies(celery_app()).of([Exchange("amq.topic")], "amq.topic", "q")) == []
    assert told(Topologies(celery_app()).of([], "e", "k")) == []


def test_what_has_the_same_names_is_the_same() -> None:
    topologies = Topologies(celery_app())
    first = topologies.of([Queue("q")], "", "q")
    assert topologies.of([Queue("q")], "", "other") is first
    assert topologies.of([Queue("p")], "", "q") is not first
    assert str(first) == "queue 'q'"


def test_delayed_delivery_declares_where_to_wait_and_where_to_go() -> None:
    queue = Queue("q", Exchange("e", type="topic"), routing_key="k", queue_arguments={"x-queue-type": "quorum"})
    topologies = Topologies(celery_app(task_queues=[queue, Queue("unrelated", routing_key="other")]))
    topology = topologies.of([], "celery_delayed_27", calculate_routing_key(5, "k"))
    requests = told(topology)
    levels = [request for request in requests if request[0] == "queue"]
    assert [request[1] for request in levels] == [*(f"celery_delayed_{n}" for n in range(27, -1, -1)), "q"]
    assert levels[0][-1]["x-message-ttl"] == 2**27 * 1000
    assert ("bind exchange", "e", "celery_delayed_delivery", "#.k", False, {}) in requests
    assert ("bind", "q", "e", "#.k", False, {}) in requests
    assert not [request for request in requests if "unrelated" in request]
    # One declaration serves every delay.
    assert topologies.of([], "celery_delayed_27", calculate_routing_key(77, "k")) is topology
    assert topologies.of([], "celery_delayed_27", "no.delay.k") is not topology


def test_delay_is_taken_from_a_routing_key() -> None:
    assert without_delay(calculate_routing_key(5, "1.0.work")) == "1.0.work"
    assert without_delay("1.0.work") == "1.0.work"
