"""Rows with a peer of their own: watching beside Redis, etcd, an attack, and certificates beside uacme."""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from bench import Group
from loads import EtcdLoad, run_watch
from measure import Budget, Contender, Result, Row
from processes import ALL_CPUS, LOAD_CPU, SERVER_CPU, Failure, await_text, run, settle, spawn, stop
from servers import free_port

# MARK: Watching

WATCH_ROWS = [
    Row("watch 1", "from the write of 1 KiB until its watcher knows"),
    Row("watch 50", "from the write of 1 KiB until the first and the last of 50 watchers know",
        [Budget("native", "last_p50_us", 1, 700, "redis pubsub", must_absolute=True),
         Budget("native os", "last_p50_us", 1, 700, "redis pubsub", must_absolute=True)]),
    Row("watch 1000", "from the write of 1 KiB until the first and the last of 1,000 watchers know"),
    Row("watch 10000", "from the write of 1 KiB until the first and the last of 10,000 watchers know", is_default=False)]


def measure_watch(bench, rows):
    """Ours is on the disk before anybody is told, or (os) leaves that to the system; pub/sub stores nothing; tracking stores, tells the
    key, and is asked for the value."""
    contenders = {
        "native": ("native", bench.ours()), "redis pubsub": ("pubsub", bench.redis()),
        "native os": ("native", bench.ours("--durability", "os")), "redis tracking": ("tracking-get", bench.redis("always"))}
    for row in rows:
        watchers = int(row.name.split()[1])
        yield bench.attempt(row, lambda: measure_watchers(bench, row, contenders, watchers))


def measure_watchers(bench, row, contenders, watchers):
    # Thousands of watchers are thousands of handshakes before, and thousands of messages a write.
    writes = 300 if watchers < 1000 else 40 if watchers < 10_000 else 5
    rounds = bench.rounds if watchers < 1000 else min(bench.rounds, 2)
    series = {name: [] for name in contenders}
    for round in range(rounds):
        names = list(contenders)
        first = round % len(names)
        for name in names[first:] + names[:first]:
            dialect, server = contenders[name]
            series[name].append(run_watch(bench.watch_binary, server, dialect, watchers, writes))
    result = Result(row, series, ["redis pubsub", "redis tracking"])
    result.notes.append(f"a write of 1 KiB and its fdatasync, by themselves: p50 {disk_p50_us(bench.work):.0f} us")
    for ours in ("native", "native os"):
        result.notes.append(f"last of {watchers}, p50, {ours} / redis pubsub: {result.ratio(ours, 'redis pubsub', 'last_p50_us'):.2f}")
    return result


def disk_p50_us(directory, writes=300):
    """What the disk takes of the time until a watcher knows what is stored: a write of 1 KiB where others were before, and its sync."""
    taken = []
    with tempfile.TemporaryFile(dir=directory) as file:
        os.sched_setaffinity(0, SERVER_CPU)
        try:
            os.pwrite(file.fileno(), bytes(writes * 1024), 0)
            os.fsync(file.fileno())
            for number in range(writes):
                begin = time.perf_counter_ns()
                os.pwrite(file.fileno(), b"v" * 1024, number * 1024)
                os.fdatasync(file.fileno())
                taken.append((time.perf_counter_ns() - begin) / 1000)
        finally:
            os.sched_setaffinity(0, ALL_CPUS)
    return statistics.median(taken)


# MARK: etcd

ETCD_SHAPES = [(16, 4), (32, 16), (64, 16)]
ETCD_ROWS = [
    Row("etcd put", "PUT of 1 KiB, on the disk before the reply, each at the best of 64, 512 and 1,024 in flight",
        [Budget("native", "per_second", 10, 5, "etcd", at_least=True)]),
    Row("etcd get", "linearizable GET of 1 KiB, each at the best of 64, 512 and 1,024 in flight",
        [Budget("native", "per_second", 10, 5, "etcd", at_least=True)])]


def measure_etcd(bench, rows):
    ours, etcd = bench.ours(), bench.etcd()
    keys = 10_000
    bench.load(ours, "fill", keys=keys).fill()
    EtcdLoad(etcd, "fill", 16, 16, keys=keys).run(keys)
    settle(ours.pid)
    for row in rows:
        kind = row.name.split()[1]
        yield bench.attempt(row, lambda: measure_beside_etcd(bench, row, kind, ours, etcd))


def measure_beside_etcd(bench, row, kind, ours, etcd):
    own, own_shape = best(bench, lambda *shape: bench.our_contender(ours, kind, *shape))
    theirs, their_shape = best(bench, lambda *shape: Contender(etcd, EtcdLoad(etcd, kind, *shape), is_peer=True, defers_work=kind == "put"))
    result = bench.compare(row, {"native": own, "etcd": theirs}, seconds=max(bench.seconds, 0.3))
    result.notes.append(f"connections x in flight: native {own_shape}, etcd {their_shape}")
    return result


def best(bench, make):
    """The contender with the concurrency that gives the most throughput, and that concurrency."""
    rates = {}
    for shape in ETCD_SHAPES:
        contender = make(*shape)
        contender.prepare(bench.seconds / 2)
        rates[shape] = contender.requests
    shape = max(rates, key=rates.get)
    return make(*shape), f"{shape[0]}x{shape[1]}"


# MARK: Under attack

ATTACK_ROWS = [Row(
    "attack", "p99 of a good client, one request after the other, without and with 1,000 half-open handshakes, 100 clients that do not "
    "read, and 8 handshakes with a bad certificate under way", [Budget("attacked", "p99_us", 3, 3, "quiet")])]
# Until the first of them meet their deadlines: from then on it is always the same.
ATTACK_SETTLES_SECONDS = 6


class Attack:
    """`mwstorage benchmark attack`: attackers have addresses of their own, and give way to the client on the processor they share."""

    def __init__(self, bench, server):
        # Each may begin 100 handshakes a second; together they ask for more than the server does in all.
        sources = [word for number in range(2, 18) for word in ("--source", f"127.0.0.{number}")]
        self.command = [bench.mwstorage, "benchmark", "attack", *server.client_arguments, *sources, "-o", "json"]
        self.counts = []

    def __enter__(self):
        self.said, self.errors = tempfile.NamedTemporaryFile(), tempfile.TemporaryFile()
        self.process = spawn(self.command, LOAD_CPU, idle=True, stdin=subprocess.PIPE, stdout=self.said, stderr=self.errors)
        try:
            await_text(self.process, self.said.name, "attacking", "the attack")
        except Failure:
            self.__exit__()
            raise
        time.sleep(ATTACK_SETTLES_SECONDS)

    def __exit__(self, *_):
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            pass
        stop(self.process)
        self.errors.seek(0)
        errors = self.errors.read().decode(errors="replace")
        self.counts.append(pathlib.Path(self.said.name).read_text().strip().splitlines()[-1:])
        self.said.close()
        self.errors.close()
        if self.process.returncode != 0:
            raise Failure(f"the attack ended with {self.process.returncode}: {errors[-1000:]}")


def measure_attack(bench, rows):
    # As a server is without options: its limits are what is tried.
    ours = bench.ours(limits=())
    bench.load(ours, "fill").fill()
    settle(ours.pid)
    for row in rows:
        attack = Attack(bench, ours)
        quiet, attacked = bench.our_contender(ours, "get", 1, 1), bench.our_contender(ours, "get", 1, 1)
        quiet.is_peer, attacked.around = True, attack
        result = bench.compare(row, {"quiet": quiet, "attacked": attacked}, seconds=max(bench.seconds, 2))
        result.notes += [line for lines in attack.counts for line in lines]
        if not result.failure and result.ratio("attacked", "quiet", "p99_us") > 3:
            result.failure = f"p99 is {result.ratio('attacked', 'quiet', 'p99_us'):.2f} times that without an attack, and may be 3"
        yield result


# MARK: Certificates

ACME_ROWS = [Row("acme", "one certificate over http-01 with a new account, ours and uacme's from one pebble")]
UACME = """#!/bin/sh
set -e
uacme --yes --type EC --acme-url "$1" --confdir "$2" new admin@example.test
uacme --yes --type EC --acme-url "$1" --confdir "$2" --hook /usr/share/uacme/uacme.sh issue "$3"
"""


class Pebble:
    """pebble with a DNS where all names are this machine."""

    def __init__(self, bench):
        self.files, self.work = bench.certificates, bench.work
        self.http_port = free_port()
        self.processes = []

    def __enter__(self):
        port, dns = free_port(), free_port()
        self.directory = f"https://localhost:{port}/dir"
        configuration = self.work / "pebble.json"
        configuration.write_text(json.dumps({"pebble": {
            "listenAddress": f"127.0.0.1:{port}", "managementListenAddress": f"127.0.0.1:{free_port()}",
            "certificate": str(self.files.server), "privateKey": str(self.files.server_key), "httpPort": self.http_port,
            "tlsPort": free_port(), "ocspResponderURL": "", "externalAccountBindingRequired": False}}))
        self.start("dns", ["pebble-challtestsrv", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", f"127.0.0.1:{dns}", "-http01",
                           "", "-https01", "", "-tlsalpn01", "", "-management", f"127.0.0.1:{free_port()}"])
        quick = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0", "PEBBLE_AUTHZREUSE": "0"}
        self.start("pebble", ["pebble", "-config", configuration, "-dnsserver", f"127.0.0.1:{dns}"], env={**os.environ, **quick})
        await_command(["curl", "--silent", "--fail", "--output", "/dev/null", "--cacert", self.files.trust, self.directory])
        return self

    def start(self, name, command, **options):
        with open(self.work / f"{name}.out", "wb") as output:
            self.processes.append(spawn(command, SERVER_CPU, stdout=output, stderr=output, **options))

    def __exit__(self, *_):
        for process in self.processes:
            stop(process)


def await_command(command):
    """Waits until a command succeeds."""
    for _ in range(300):
        if subprocess.run([str(word) for word in command], stderr=subprocess.DEVNULL).returncode == 0:
            return
        time.sleep(0.05)
    raise Failure(f"'{command[0]}' did not succeed: {command[-1]}")


def measure_acme(bench, rows):
    if os.environ.get("MWSTORAGE_BENCH_MOUNTS") != "private":
        raise Failure("uacme's authorities have to be replaced for this: run 'scripts/bench acme'")
    run(["mount", "--bind", bench.certificates.trust, "/etc/ssl/certs/ca-certificates.crt"], LOAD_CPU)
    script = bench.work / "uacme.sh"
    script.write_text(UACME)
    script.chmod(0o755)
    for row in rows:
        with Pebble(bench) as pebble:
            yield bench.attempt(row, lambda: issue_in_turn(bench, row, pebble, script))


def issue_in_turn(bench, row, pebble, script):
    web = bench.work / "www"
    challenges = web / ".well-known" / "acme-challenge"
    challenges.mkdir(parents=True, exist_ok=True)

    def sample(command, **options):
        finished = run(command, LOAD_CPU, **options)
        return {"wall_ms": finished.seconds * 1000, "cpu_ms": finished.cpu_seconds * 1000}

    series = {"native": [], "uacme": []}
    for round in range(bench.rounds):
        series["native"].append(sample([
            bench.mwstorage, "acme", "issue", "--directory", pebble.directory, "--ca-file", bench.certificates.trust, "--state",
            bench.work / f"state-{round}", "--challenge", "http-01", "--http-listen", f"127.0.0.1:{pebble.http_port}", "--agree-to-terms",
            "--contact", "admin@example.test", "--name", f"ours-{round}.example.test"]))
        server = spawn([sys.executable, "-m", "http.server", pebble.http_port, "--bind", "127.0.0.1", "--directory", web], LOAD_CPU,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            await_command(["curl", "--silent", "--output", "/dev/null", f"http://127.0.0.1:{pebble.http_port}/"])
            series["uacme"].append(sample([script, pebble.directory, bench.work / f"uacme-{round}", f"theirs-{round}.example.test"],
                                          env={**os.environ, "UACME_CHALLENGE_PATH": str(challenges)}))
        finally:
            stop(server)
    result = Result(row, series, ["uacme"])
    ratios = [f"{metric} {result.ratio('native', 'uacme', metric):.2f}" for metric in ("wall_ms", "cpu_ms")]
    result.notes.append(f"native / uacme: {', '.join(ratios)}")
    return result


GROUPS = [
    Group("watch", "watchers beside Redis", WATCH_ROWS, measure_watch),
    Group("etcd", "puts and linearizable gets beside etcd", ETCD_ROWS, measure_etcd),
    Group("attack", "a good client beside attackers; fails if its p99 is over 3 times that without them", ATTACK_ROWS, measure_attack,
          is_default=False),
    Group("acme", "certificates beside uacme", ACME_ROWS, measure_acme, is_default=False),
]
