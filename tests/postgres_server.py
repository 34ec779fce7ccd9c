"""A private PostgreSQL for the tests: its own folder and port, on loopback, gone afterwards."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
_START_SECONDS = 30.0
PASSWORD = "pass-canary"


class Server:
    """A running server; `url` is the address of its first database."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bin = _INSTALLED[-1].parent
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as each:
            each.bind(("127.0.0.1", 0))
            self.port: int = each.getsockname()[1]
        self.url = self.url_of("postgres")
        password = folder / "password"
        password.write_text(PASSWORD)
        if os.getuid() == 0:  # PostgreSQL won't run as root
            for each_path in (folder, password):
                shutil.chown(each_path, "postgres", "postgres")
        self._run("initdb", "-D", str(folder / "data"), "-U", "receiver", "-A", "scram-sha-256", "--pwfile",
                  str(password), "--no-sync", "-E", "UTF8", "--locale=C.UTF-8")  # fmt: skip

    def url_of(self, database: str, password: str = PASSWORD) -> str:
        """The address of a database."""
        return f"postgresql://receiver:{password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start, and wait until it answers."""
        limits = ["listen_addresses=127.0.0.1", f"unix_socket_directories={self._folder}", "fsync=off",
                  "deadlock_timeout=100ms"]  # fmt: skip
        options = ["-D", str(self._folder / "data"), "-p", str(self.port), *(f"-c{limit}" for limit in limits)]
        with (self._folder / "out.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_as_postgres(), str(self._bin / "postgres"), *options], stdout=log, stderr=log, cwd=self._folder
            )
        deadline = time.monotonic() + _START_SECONDS
        ready = [str(self._bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(ready, check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{(self._folder / 'out.log').read_text()[-3000:]}")
            time.sleep(0.05)

    def sql(self, statement: str, url: str | None = None) -> str:
        """Run a statement with psql, in the first database or in another; what it prints."""
        command = [str(self._bin / "psql"), "-qtAX", "-v", "ON_ERROR_STOP=1", "-c", statement, url or self.url]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout

    def kill(self) -> None:
        """kill -9 of all its processes; its data stays."""
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def pause(self) -> None:
        """SIGSTOP of all its processes: connections stay open, nobody answers."""
        for pid in self._pids():
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        for pid in self._pids():
            os.kill(pid, signal.SIGCONT)

    def restore(self) -> None:
        """Have it answer, whatever was done to it."""
        if self._process is None or self._process.poll() is not None:
            self.start()
        else:
            self.resume()

    def close(self) -> None:
        """Stop it."""
        if self._process is not None and self._process.poll() is None:
            self.resume()
            self.kill()

    def _pids(self) -> list[int]:
        assert self._process is not None
        main = self._process.pid
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        return [main, *map(int, children)]

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [*_as_postgres(), str(self._bin / program), *arguments],
            check=True, cwd=self._folder, stdout=subprocess.DEVNULL, timeout=60,
        )  # fmt: skip


def _as_postgres() -> list[str]:
    if os.getuid():
        return []
    return ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]


def is_installed() -> bool:
    """Whether this machine has what a private server needs."""
    return bool(_INSTALLED)


@contextlib.contextmanager
def running_server() -> Iterator[Server]:
    """A server of one's own for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        server = Server(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.close()
