"""Test sessions beside each other: each has servers of its own, and leaves the others' alone."""

from pathlib import Path

from conftest import ROOT

from stack import folders, services
from stack.instance import Instance
from stack.testing import servers
from stack.testing.plan import SUITES


def test_a_session_does_not_clean_up_one_that_runs(tmp_path: Path) -> None:
    home = Instance.at(ROOT, tmp_path / "state", services.PORTS)
    folders.make(home)
    with servers.started(home) as first:
        first.environment(SUITES[0])
        servers._clean_up(home)
        # Its RabbitMQ makes another virtual host, so it is there.
        assert first.environment(SUITES[1])["RABBITMQ_VHOST"] == SUITES[1].name
        first.give_up()
        # As if it had been killed: nobody holds the lock any more.
        servers._clean_up(home)
        assert list(home.state.glob("test-*")) == []
