"""Real etcd and ZooKeeper servers for tests: on free ports of this machine, ended by their process ids.

Debian's own packages; what is missing is fetched into the environment's directory (etcd) or installed
(ZooKeeper's jar, which brings no daemon). Where that can't be done the tests fail and say what to install.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import httpx

INSTALL_TIMEOUT_S = 300
START_TIMEOUT_S = 60
ZOOKEEPER_JAR = Path("/usr/share/java/zookeeper.jar")
TICK_MS = 200  # of ZooKeeper: sessions of 0.4 to 4 s


def free_ports(count):
    """Ports that nobody listens on just now."""
    sockets = [socket.socket() for _ in range(count)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def _run(*command, cwd=None):
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        timeout=INSTALL_TIMEOUT_S,
    )  # fmt: skip
    return done.returncode == 0


def _apt(*arguments, cwd=None):
    """An old list of packages names files that are gone: then it is fetched anew, once."""
    if shutil.which("apt-get") is None:
        return False
    if _run("apt-get", *arguments, cwd=cwd):
        return True
    return os.geteuid() == 0 and _run("apt-get", "update") and _run("apt-get", *arguments, cwd=cwd)


@cache
def etcd_binary():
    """The path of etcd, which is fetched without installing it: the package would start a daemon."""
    found = shutil.which("etcd")
    if found:
        return found
    home = Path(sys.prefix) / "engines" / "etcd"
    binary = home / "usr" / "bin" / "etcd"
    if not binary.exists():
        home.mkdir(parents=True, exist_ok=True)
        _apt("download", "etcd-server", cwd=home)
        for package in home.glob("etcd-server_*.deb"):
            _run("dpkg-deb", "-x", str(package), str(home))
            package.unlink()
    assert binary.exists(), "etcd is needed for these tests and can't be fetched; on Debian: apt install etcd-server"
    return str(binary)


@cache
def zookeeper_jar():
    """The path of ZooKeeper's jar; it is installed, with a Java to run it, when it is missing."""
    wanted = ["libzookeeper-java"] * (not ZOOKEEPER_JAR.exists()) + ["default-jre-headless"] * (
        not shutil.which("java")
    )
    if wanted and os.geteuid() == 0:
        _apt("install", "--yes", "--no-install-recommends", *wanted)
    assert ZOOKEEPER_JAR.exists() and shutil.which("java"), (  # noqa: PT018  # one thing to install
        "ZooKeeper is needed for these tests and can't be installed; on Debian: "
        "apt install libzookeeper-java default-jre-headless"
    )
    return str(ZOOKEEPER_JAR)


class Server:
    """A server process that can be killed, started again on its data, frozen and thawed."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.process = None
        self.start()

    def start(self):
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if not self.is_member:  # of others, without which it can't serve yet
            self.wait_ready()

    def wait_ready(self):
        """Wait until it serves clients."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.is_ready():
            assert self.process.poll() is None, f"the server ended: {self.log()}"
            assert time.monotonic() < deadline, f"the server is not ready: {self.log()}"
            time.sleep(0.05)

    def log(self):
        return (self.directory / "log").read_text(errors="replace")[-4_000:]

    def kill(self):
        """SIGKILL, as if its machine were gone."""
        self.thaw()
        self.process.kill()
        self.process.wait()

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        if self.process.poll() is None:
            self.kill()


class EtcdServer(Server):
    """One member. `cluster` has every member's name and port for the others."""

    def __init__(self, directory, name="n1", ports=None, cluster=None):
        self.name = name
        self.port, self.peer_port = ports or free_ports(2)
        self.cluster = cluster or {name: self.peer_port}
        self.is_member = len(self.cluster) > 1
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.address}"
        super().__init__(directory)

    def command(self):
        peer = f"http://127.0.0.1:{self.peer_port}"
        members = ",".join(f"{name}=http://127.0.0.1:{port}" for name, port in self.cluster.items())
        return [
            etcd_binary(), "--name", self.name, "--data-dir", str(self.directory / "data"),
            "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", members,
            "--unsafe-no-fsync",
        ]  # fmt: skip

    def is_ready(self):
        try:
            return httpx.get(f"{self.url}/health", timeout=1.0, trust_env=False).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def compact(self, revision):
        """Forget the history before `revision`."""
        answer = httpx.post(
            f"{self.url}/v3/kv/compaction", json={"revision": str(revision), "physical": True}, trust_env=False
        )
        assert answer.status_code == httpx.codes.OK, answer.text


class ZooKeeperServer(Server):
    """One server: alone, or number `number` of an ensemble, which has everybody's ports for the others."""

    def __init__(self, directory, number=1, ensemble=None):
        (self.port,) = free_ports(1)
        self.address = f"127.0.0.1:{self.port}"
        self.number = number
        self.ensemble = ensemble or {}
        self.is_member = bool(self.ensemble)
        super().__init__(directory)

    def command(self):
        configuration = self.directory / "zoo.cfg"
        configuration.write_text(
            f"tickTime={TICK_MS}\ndataDir={self.directory / 'data'}\nclientPort={self.port}\n"
            "clientPortAddress=127.0.0.1\nadmin.enableServer=false\n4lw.commands.whitelist=ruok,srvr\n"
            "forceSync=no\ninitLimit=20\nsyncLimit=10\n"
            + "maxSessionTimeout=20000\n" * bool(self.ensemble)
            + "".join(f"server.{n}=127.0.0.1:{one}:{other}\n" for n, (one, other) in self.ensemble.items())
        )
        (self.directory / "data").mkdir(exist_ok=True)
        (self.directory / "data" / "myid").write_text(str(self.number))
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        options = ["-Xmx256m", "-XX:TieredStopAtLevel=1", "-Dzookeeper.admin.enableServer=false"]
        return ["java", *options, "-cp", zookeeper_jar(), main, str(configuration)]

    def is_ready(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as sock:
                sock.sendall(b"srvr")
                return b"Mode:" in sock.recv(4_096)
        except OSError:
            return False
