"""Our server and its peers, each with mutual TLS and the same certificates, on a processor of their own."""

import pathlib
import re
import shutil
import socket
import tempfile
import time

from processes import SERVER_CPU, Failure, await_text, cpu_seconds, resident_kib, run, spawn, stop


class Certificates:
    """An authority, and the certificates of a server and a client, made anew for each run."""

    def __init__(self, mwstorage, directory):
        run([mwstorage, "provision", "--layout", "ca", "--out", directory, "--san", "localhost", "--client", "bench"], SERVER_CPU)
        self.trust = directory / "ca.pem"
        self.server, self.server_key = directory / "server.pem", directory / "server.key"
        self.client, self.client_key = directory / "bench.pem", directory / "bench.key"


def free_port():
    """A port that nobody has; a server that cannot take the address from the system is told it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A running server. A context manager: at its end the process is gone, and so is its directory."""

    name = ""
    attempts = 3

    def __init__(self, certificates, cpus=SERVER_CPU, directory=None):
        self.certificates = certificates
        self.cpus = cpus
        self.directory = pathlib.Path(directory or tempfile.mkdtemp(prefix=f"mwstorage-bench-{self.name}-"))
        self.directory.mkdir(exist_ok=True)
        self.keeps_directory = directory is not None
        self.process = None
        self.port = 0

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.process:
            stop(self.process)
        if not self.keeps_directory:
            shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def pid(self):
        return self.process.pid

    def cpu_seconds(self):
        return cpu_seconds(self.pid)

    def resident_kib(self):
        return resident_kib(self.pid)

    def start(self):
        """Starts the process, and waits until it serves."""
        for attempt in range(self.attempts):
            try:
                return self.launch()
            except Failure:
                # Somebody else may have got the port meanwhile.
                if attempt == self.attempts - 1:
                    raise
                stop(self.process)

    def execute(self, command, **options):
        """Starts `command` with its output in a file; returns that file."""
        path = self.directory / f"{self.name}.out"
        with open(path, "wb") as output:
            self.process = spawn(command, self.cpus, stdout=output, stderr=output, **options)
        return path

    def await_port(self):
        """Waits until something accepts connections at our port."""
        for _ in range(1500):
            if self.process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                time.sleep(0.02)
        said = (self.directory / f"{self.name}.out").read_text(errors="replace")
        raise Failure(f"{self.name} does not serve: {said[-2000:]}")

    def await_listening(self, path):
        """Waits until the server says where it listens."""
        try:
            found = await_text(self.process, path, r"listening on wss://[^\s:]+:(\d+)", self.name)
        except Failure as failure:
            raise Failure(f"{failure}: {path.read_text(errors='replace')[-2000:]}") from failure
        self.port = int(found[1])


NO_LIMITS = (
    "--maximum-connections", 12000, "--maximum-connections-per-certificate", 12000, "--maximum-connections-per-principal", 12000,
    "--handshake-rate", 100000, "--handshake-rate-per-address", 100000)


class MWStorage(Server):
    """Ours, with one event loop unless told otherwise, and with no limits in the way of many connections."""

    name = "mwstorage"
    attempts = 1

    def __init__(self, binary, certificates, *options, event_loops=1, limits=NO_LIMITS, **more):
        super().__init__(certificates, **more)
        self.binary = binary
        self.options = ["--event-loops", event_loops, *limits, *options]

    def launch(self):
        files = self.certificates
        self.await_listening(self.execute([
            self.binary, "serve", "--listen", "127.0.0.1:0", "--data", self.directory / "data", "--certificate", files.server,
            "--key", files.server_key, "--trust", files.trust, *self.options]))

    @property
    def client_arguments(self):
        files = self.certificates
        return ["--endpoint", f"wss://localhost:{self.port}", "--certificate", files.client, "--key", files.client_key,
                "--trust", files.trust]


class Floor(MWStorage):
    """The least that a server must do, in C: see floor/floor.c. It speaks our protocol, so that the same load drives it."""

    name = "floor"

    def __init__(self, binary, certificates, with_rocksdb=False, **more):
        super().__init__(binary, certificates, **more)
        self.with_rocksdb = with_rocksdb

    def launch(self):
        files = self.certificates
        engine = [self.directory / "rocksdb"] if self.with_rocksdb else []
        self.await_listening(self.execute([self.binary, files.server, files.server_key, files.trust, *engine]))


class Redis(Server):
    """Redis with mutual TLS and an append-only file that is synced `always` or `everysec`, and never rewritten meanwhile."""

    name = "redis"

    def __init__(self, certificates, fsync="everysec", **more):
        super().__init__(certificates, **more)
        self.fsync = fsync

    def launch(self):
        self.port = free_port()
        files = self.certificates
        self.execute([
            "redis-server", "--port", 0, "--tls-port", self.port, "--bind", "127.0.0.1", "--dir", self.directory, "--save", "",
            "--appendonly", "yes", "--auto-aof-rewrite-percentage", 0, "--appendfsync", self.fsync, "--maxclients", 12000,
            "--tls-cert-file", files.server, "--tls-key-file", files.server_key, "--tls-ca-cert-file", files.trust,
            "--tls-auth-clients", "yes"])
        self.await_port()
        self.command("ping")

    @property
    def client_arguments(self):
        files = self.certificates
        return ["-h", "127.0.0.1", "-p", self.port, "--tls", "--cert", files.client, "--key", files.client_key, "--cacert", files.trust]

    def command(self, *words, **options):
        return run(["redis-cli", *self.client_arguments, *words], self.cpus, **options).output

    def counter(self, *names):
        """The sum of counters of INFO."""
        text = self.command("info", "stats")
        return sum(int(re.search(rf"^{name}:(\d+)", text, re.MULTILINE)[1]) for name in names)

    def fill(self, keys, value_bytes):
        """Sets every key that redis-benchmark may ask for."""
        value = (b"0123456789abcdef" * (value_bytes // 16 + 1))[:value_bytes]
        tail = b"$%d\r\n%s\r\n" % (value_bytes, value)
        stream = b"".join(b"*3\r\n$3\r\nSET\r\n$16\r\nkey:%012d\r\n%s" % (key, tail) for key in range(keys))
        said = self.command("--pipe", input=stream)
        if f"errors: 0, replies: {keys}" not in said:
            raise Failure(f"Redis did not take its values: {said}")


class Nginx(Server):
    """nginx with client certificates, without the session tickets that it sends by default."""

    name = "nginx"

    def __init__(self, certificates, session_tickets="off", **more):
        super().__init__(certificates, **more)
        self.session_tickets = session_tickets

    def launch(self):
        self.port = free_port()
        files = self.certificates
        configuration = self.directory / "nginx.conf"
        configuration.write_text(f"""
daemon off;
master_process off;
pid {self.directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 12000; }}
http {{
    access_log off;
    client_body_temp_path {self.directory}/body;
    proxy_temp_path {self.directory}/proxy;
    fastcgi_temp_path {self.directory}/fastcgi;
    uwsgi_temp_path {self.directory}/uwsgi;
    scgi_temp_path {self.directory}/scgi;
    keepalive_timeout 1h;
    client_header_timeout 1h;
    server {{
        listen 127.0.0.1:{self.port} ssl backlog=4096;
        ssl_certificate {files.server};
        ssl_certificate_key {files.server_key};
        ssl_client_certificate {files.trust};
        ssl_verify_client on;
        ssl_protocols TLSv1.3;
        ssl_session_tickets {self.session_tickets};
        location / {{ return 204; }}
    }}
}}
""")
        self.execute([shutil.which("nginx") or "/usr/sbin/nginx", "-c", configuration, "-p", self.directory])
        self.await_port()


class Etcd(Server):
    """etcd, one member, with client certificates; it syncs before it answers."""

    name = "etcd"

    def launch(self):
        self.port = free_port()
        files = self.certificates
        peer = f"http://127.0.0.1:{free_port()}"
        address = f"https://localhost:{self.port}"
        self.execute([
            "etcd", "--name", "bench", "--data-dir", self.directory / "data", "--log-level", "error", "--quota-backend-bytes", 8 << 30,
            "--listen-client-urls", f"https://127.0.0.1:{self.port}", "--advertise-client-urls", address, "--listen-peer-urls", peer,
            "--initial-advertise-peer-urls", peer, "--initial-cluster", f"bench={peer}", "--cert-file", files.server,
            "--key-file", files.server_key, "--trusted-ca-file", files.trust, "--client-cert-auth"])
        self.await_port()
        run(["etcdctl", "--endpoints", address, "--cert", files.client, "--key", files.client_key, "--cacert", files.trust,
             "endpoint", "health"], self.cpus, env={"PATH": "/usr/bin:/bin", "ETCDCTL_API": "3"})
