"""What supervisord reads is what was meant: rendered text goes through supervisord's own parser."""

import os
import shlex
from pathlib import Path

import psutil
import pytest
from supervisor.options import ProcessConfig, ServerOptions

from stack.errors import StackError
from stack.instance import Instance
from stack.service import Program
from stack.supervision import Supervisor, configuration

AWKWARD = "a 'b' %(ENV_HOME)s 100% \\ ,=x;# $HOME"


def parsed(instance: Instance, programs: list[Program]) -> tuple[ServerOptions, dict[str, ProcessConfig]]:
    conf = instance.state / "supervisord.conf"
    conf.write_text(configuration(instance, programs))
    options = ServerOptions()
    options.realize(["-c", str(conf)])
    return options, {
        config.name: config for group in options.process_group_configs for config in group.process_configs
    }


def instance_in(folder: Path) -> Instance:
    for name in ("logs", "run"):
        (folder / name).mkdir(parents=True)
    return Instance(repository=folder, state=folder, values={})


def test_words_and_values_arrive_unchanged(tmp_path: Path) -> None:
    instance = instance_in(tmp_path / "a folder; with, odd#signs")
    program = Program(
        name="odd", command=lambda _: ["run", AWKWARD], environment=lambda _: {"A": AWKWARD, "B": "2"}
    )
    _, configs = parsed(instance, [program])
    words = shlex.split(configs["odd"].command)  # as supervisord does
    assert words[:3] == ["setpriv", "--pdeathsig", "TERM"]
    assert words[-3:] == ["--", "run", AWKWARD]
    assert configs["odd"].environment == {"A": AWKWARD, "B": "2"}
    assert configs["odd"].directory == str(instance.state)
    assert configs["odd"].stdout_logfile == str(instance.log("odd"))


def test_programs_wait_for_us_come_back_when_killed_and_stop_alone(tmp_path: Path) -> None:
    program = Program(name="p", command=lambda _: ["run"], stop_signal="INT", death_signal="QUIT", stop_wait=7)
    _, configs = parsed(instance_in(tmp_path / "s"), [program])
    config = configs["p"]
    assert not config.autostart
    assert config.autorestart
    assert (config.stopsignal, config.stopwaitsecs) == (2, 7)
    assert (config.stopasgroup, config.killasgroup) == (False, True)
    assert "--pdeathsig QUIT" in config.command


@pytest.mark.parametrize("value", ["a #b", "a ;b", "a\nb", 'a"b', "'a"])
def test_what_would_be_read_as_a_comment_or_quote_is_refused(tmp_path: Path, value: str) -> None:
    program = Program(name="p", command=lambda _: ["run"], environment=lambda _: {"A": value})
    with pytest.raises(StackError, match="environment of p"):
        configuration(instance_in(tmp_path / "s"), [program])


def test_the_socket_is_private_and_short(tmp_path: Path) -> None:
    deep = instance_in(tmp_path / ("x" * 120))
    options, _ = parsed(deep, [])
    (server,) = options.server_configs
    assert server["chmod"] == 0o700
    assert server["file"] == str(deep.socket)
    assert len(server["file"]) < 100
    assert instance_in(tmp_path / "short").socket.parent.name == "run"


def test_programs_find_others_even_when_only_settings_are_given(tmp_path: Path) -> None:
    instance = instance_in(tmp_path / "s")
    supervisor = Supervisor(instance)
    supervisor.launch([], {"API_PORT": "5001"})
    process = psutil.Process(int((instance.run / "supervisord.pid").read_text()))
    try:
        assert process.environ()["PATH"] == os.environ["PATH"]
    finally:
        supervisor.shutdown()
        process.wait(timeout=20)
