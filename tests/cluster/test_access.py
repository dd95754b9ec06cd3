"""Who is let in: clusters that refuse or do not answer, and a Ray of our own that nobody else reaches."""

import ipaddress
import os
import socket
import time
from pathlib import Path

import matplotlib
import psutil
import pytest
import yaml

from tests.cluster.nodes import COMMAND, Machines
from tests.study import drive, fakes

pytestmark = pytest.mark.timeout(300)


def written(path: Path) -> Path:
    path.mkdir()
    (path / "fake.yaml").write_text(yaml.safe_dump({**fakes.CONTENT, "budget": {"trials": 3, "attempts": 1}}))
    return path


def test_a_cluster_that_does_not_let_us_in_is_one_line(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "MPLCONFIGDIR": matplotlib.get_configdir()}  # no token lies there
    with socket.socket() as closed, socket.create_server(("", 0)) as silent, Machines(tmp_path, 0) as machines:
        closed.bind(("", 0))  # and nobody listens
        ports = {name: one.getsockname()[1] for name, one in (("closed", closed), ("silent", silent))}
        cases: dict[str, tuple[str, dict[str, str], str]] = {
            "closed": (
                f"127.0.0.1:{ports['closed']}",
                {},
                f"127.0.0.1:{ports['closed']}' does not answer: [Errno 111]",
            ),
            "silent": (f"127.0.0.1:{ports['silent']}", {}, f"127.0.0.1:{ports['silent']}' does not answer: "),
            "client": (
                f"ray://{machines.address}",
                {},
                f"address 'ray://{machines.address}' cannot be used; valid: host",
            ),
            "token": (machines.address, {"RAY_AUTH_MODE": "token"}, "refuses: "),
            "wrong": (machines.address, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}, "refuses: "),
            "off": (machines.address, {"RAY_AUTH_MODE": "disabled"}, "refuses: "),
            "unset": (machines.address, {}, "refuses: "),
        }
        drivers = {}
        for name, (address, environment, _) in cases.items():
            folder = written(tmp_path / name)
            more = {"FAKE_STARTS": str(folder / "starts"), **home, **environment}
            drivers[name] = drive.start([*COMMAND, "--address", address], folder, **more)
        said = {}
        for name, driver in drivers.items():
            assert driver.wait(240) == 2, name
            (said[name],) = (tmp_path / name / "stderr.txt").read_text().splitlines()
    for name, (_, _, words) in cases.items():
        assert words in said[name]
        if words == "refuses: ":
            assert said[name].endswith("set RAY_AUTH_MODE and RAY_AUTH_TOKEN as its nodes have them")
    assert not (tmp_path / ".ray").exists()


def test_a_ray_of_our_own_listens_to_this_machine_only_and_leaves_no_token(tmp_path: Path) -> None:
    folder = written(tmp_path / "local")
    environment = {"HOME": str(tmp_path), "MPLCONFIGDIR": matplotlib.get_configdir(), "FAKE_SECONDS": "0.3"}
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        assert name not in os.environ
    driver = drive.start(COMMAND, folder, **environment, FAKE_STARTS=str(folder / "starts"))
    heard: set[tuple[str, str]] = set()
    while driver.poll() is None:
        for process in drive.descendants(driver) if psutil.pid_exists(driver.pid) else []:
            try:
                open_ = [(process.name(), one.laddr.ip) for one in process.net_connections() if one.status == "LISTEN"]
            except psutil.Error:
                continue
            heard |= set(open_)
        time.sleep(0.2)
    assert driver.returncode == 0, (folder / "stderr.txt").read_text()
    assert {"raylet", "gcs_server"} <= {name for name, _ in heard}
    assert [one for one in heard if not _loopback(one[1])] == []
    assert not (tmp_path / ".ray").exists()


def _loopback(address: str) -> bool:
    known = ipaddress.ip_address(address)
    return (getattr(known, "ipv4_mapped", None) or known).is_loopback
