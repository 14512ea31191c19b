"""Prometheus' configuration in Docker, checked by its own tool."""

import shutil
import subprocess
from pathlib import Path

from conftest import ROOT

PROMETHEUS = ROOT / "infra" / "prometheus"


def test_promtool_takes_what_the_containers_start_puts_together(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    assert promtool, "it comes with Debian's package prometheus"
    shutil.copytree(PROMETHEUS / "rules", tmp_path / "rules")
    shutil.copytree(PROMETHEUS / "docker-targets", tmp_path / "targets")
    text = "".join((PROMETHEUS / name).read_text() for name in ("prometheus.yml", "docker.yml"))
    (tmp_path / "prometheus.yml").write_text(text)
    done = subprocess.run(
        [promtool, "check", "config", str(tmp_path / "prometheus.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
