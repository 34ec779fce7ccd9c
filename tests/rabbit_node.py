"""A private RabbitMQ node for the tests: its own ports, cookie and folders, on loopback, gone afterwards.

It is the machine's RabbitMQ, or that of the root that RECEIVER_TEST_RABBITMQ_ROOT names (`tests/rabbitmq_root.sh`).
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
CTL = SERVER.with_name("rabbitmqctl")
_ROOT = os.environ.get("RECEIVER_TEST_RABBITMQ_ROOT")
# The mounts are of a namespace of the command's own and end with it. Each step is an exec: the command keeps its pid.
_ENTER = """
mount -t tmpfs tmpfs "$1/tmp" && mount --bind /proc "$1/proc" && mount --bind /dev "$1/dev" &&
mkdir -p "$1$2" && mount --bind "$2" "$1$2" && root=$1 && shift 2 && exec chroot "$root" "$@"
"""
_START_SECONDS = 90.0


class Epmd:
    """The name server of one node, or of the nodes of one cluster."""

    def __init__(self, folder: Path) -> None:
        (self.port,) = _free_ports(1)
        self._process = subprocess.Popen(
            _command(folder, "epmd", "-port", str(self.port), "-address", "127.0.0.1"),
            env={"PATH": os.environ["PATH"]},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def close(self) -> None:
        """Stop it."""
        self._process.terminate()
        self._process.wait()


class Node:
    """A running node; `url` is its AMQP address, `management_url` that of its HTTP API, `name` its Erlang name."""

    def __init__(self, folder: Path, epmd: Epmd) -> None:
        self._folder = folder
        self._epmd_port = epmd.port
        self._port, self._dist, self._management = _free_ports(3)
        self.url = f"amqp://guest:guest@127.0.0.1:{self._port}/"
        self.management_url = f"http://127.0.0.1:{self._management}"
        self.name = f"tests{self._port}@localhost"
        self._environment = self._write()
        self._server: subprocess.Popen[bytes] | None = None

    def join(self, names: list[str]) -> None:
        """Form a cluster with the nodes of these names at the first start."""
        peers = "".join(
            f"cluster_formation.classic_config.nodes.{number} = {name}\n" for number, name in enumerate(names, 1)
        )
        with (self._folder / "rabbitmq.conf").open("a") as configuration:
            configuration.write(f"cluster_formation.peer_discovery_backend = classic_config\n{peers}")

    def start(self) -> None:
        """Start the node and wait until it is ready."""
        self.launch()
        self.await_ready()

    def launch(self) -> None:
        """Start the node."""
        with (self._folder / "out.log").open("ab") as log:
            self._server = subprocess.Popen(
                _command(self._folder, str(SERVER)),
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def await_ready(self) -> None:
        """Wait until it is ready."""
        assert self._server is not None
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_ready():
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"RabbitMQ did not start:\n{(self._folder / 'out.log').read_text()[-3000:]}")
            time.sleep(0.1)

    def kill(self) -> None:
        """kill -9; its data stays."""
        self._signal(signal.SIGKILL)
        assert self._server is not None
        self._server.wait()

    def pause(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl."""
        run = subprocess.run(
            _command(self._folder, str(CTL), *arguments),
            env=self._environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return run.stdout

    def close(self) -> None:
        """Stop the node."""
        if self._server is not None and self._server.poll() is None:
            self.resume()
            self.kill()

    def _signal(self, number: signal.Signals) -> None:
        assert self._server is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._server.pid, number)

    def _is_ready(self) -> bool:
        request = urllib.request.Request(f"http://127.0.0.1:{self._management}/api/health/checks/local-alarms")
        request.add_header("Authorization", "Basic Z3Vlc3Q6Z3Vlc3Q=")
        try:
            with urllib.request.urlopen(request, timeout=1):
                pass
            with socket.create_connection(("127.0.0.1", self._port), timeout=1):
                return True
        except OSError:
            return False

    def _write(self) -> dict[str, str]:
        home = self._folder / "home"
        home.mkdir()
        cookie = home / ".erlang.cookie"
        cookie.write_text("receivertests")
        cookie.chmod(0o400)
        (self._folder / "plugins").write_text("[rabbitmq_management].")
        (self._folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.default = 127.0.0.1:{self._port}\n"
            f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {self._management}\n"
            "disk_free_limit.absolute = 50MB\nloopback_users = none\n"
        )
        erl = "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false"
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "RABBITMQ_CONF_ENV_FILE": str(self._folder / "none"),
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(self._dist),
            "RABBITMQ_MNESIA_BASE": str(self._folder / "data"),
            "RABBITMQ_LOG_BASE": str(self._folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "plugins"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(self._folder / "flags"),
            "RABBITMQ_PID_FILE": str(self._folder / "pid"),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": erl,
            "RABBITMQ_CTL_ERL_ARGS": erl,
            "detached": "1",
        }


def is_installed() -> bool:
    """Whether this machine, or the root that is named, has what a private node needs."""
    if _ROOT:
        return Path(f"{_ROOT}{SERVER}").exists()
    return SERVER.exists() and shutil.which("epmd") is not None


@contextlib.contextmanager
def running_node() -> Iterator[Node]:
    """A node of one's own for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="rabbit-") as folder, contextlib.closing(Epmd(Path(folder))) as epmd:
        node = Node(Path(folder), epmd)
        try:
            node.start()
            yield node
        finally:
            node.close()


@contextlib.contextmanager
def running_cluster(count: int = 3) -> Iterator[list[Node]]:
    """A cluster of one's own for as long as the block lasts; up after about 20 s."""
    with tempfile.TemporaryDirectory(prefix="rabbit-") as folder, contextlib.closing(Epmd(Path(folder))) as epmd:
        nodes = []
        for number in range(count):
            own = Path(folder) / str(number)
            own.mkdir()
            nodes.append(Node(own, epmd))
        try:
            for node in nodes:
                node.join([each.name for each in nodes])
                node.launch()
            for node in nodes:
                node.await_ready()
            while any(node.ctl("eval", "length(rabbit_nodes:all_running()).").strip() != str(count) for node in nodes):
                time.sleep(0.2)
            yield nodes
        finally:
            for node in nodes:
                node.close()


def _command(folder: Path, *command: str) -> list[str]:
    """A command that sees this folder, in the root if one is named, which wants the rights of root."""
    return ["unshare", "--mount", "sh", "-c", _ENTER, "sh", _ROOT, str(folder), *command] if _ROOT else [*command]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
