"""Rows about connections: handshakes, idle memory, several event loops, what goes on beside gets, and growth."""

import contextlib
import subprocess
import sys
import tempfile
import time

from bench import HERE, Group
from loads import Background, HandshakeLoad, run_watch
from measure import Budget, Contender, Result, Row
from processes import (
    ALL_CPUS, LOAD_CPU, SERVER_CPU, Failure, await_text, busiest_thread_cpus, resident_kib, run, settle, spawn, spread_threads, stop,
    thread_cpu_seconds)

IDLE_CONNECTIONS = 5_000
BULK_BYTES = 16 << 20
# Gets beside something else come at this rate, one after the other: far from what the server can do.
BESIDE_RATE = 2_000
FOREVER = ("--duration", "1h")


# MARK: Handshakes

HANDSHAKE_ROWS = [
    Row("handshake", "full handshakes with client certificates and an HTTP request (openssl s_time, 4 at a time); nginx without session "
        "tickets, and as it is by default",
        [Budget("native", "per_cpu_second", 1.0, 0.9, "nginx", at_least=True)]),
    Row("handshake websocket", "full handshakes, WebSocket's opening and closing handshake (mwstorage benchmark), 8 at a time")]


def measure_handshake(bench, rows):
    # nginx logs no request either, and s_time's HTTP/1.0 is one that ours refuses.
    ours, nginx, with_tickets, floor = bench.ours("--log-level", "warning"), bench.nginx(), bench.nginx(session_tickets="on"), bench.floor()
    for row in rows:
        if row.name == "handshake":
            yield bench.compare(row, {
                "native": Contender(ours, HandshakeLoad(ours)), "nginx": Contender(nginx, HandshakeLoad(nginx), is_peer=True),
                "nginx tickets": Contender(with_tickets, HandshakeLoad(with_tickets), is_peer=True)})
        else:
            yield bench.compare(row, {
                "native": bench.our_contender(ours, "handshake", 8), "floor": bench.our_contender(floor, "handshake", 8, protocol="mwdb")})


# MARK: Idle connections

IDLE_ROWS = [Row("idle", f"resident memory of the server for each of {IDLE_CONNECTIONS:,} idle connections, each answered once",
                 [Budget("native", "kib_each", 24, 40)])]


@contextlib.contextmanager
def holding(command, count):
    """Lets `command` hold connections."""
    with tempfile.NamedTemporaryFile() as said, tempfile.TemporaryFile() as errors:
        process = spawn(command, LOAD_CPU, stdin=subprocess.PIPE, stdout=said, stderr=errors)
        try:
            await_text(process, said.name, rf"holding {count}\n", "what holds the connections", seconds=300)
            yield
        except Failure as failure:
            errors.seek(0)
            raise Failure(f"{failure}: {errors.read().decode(errors='replace')[-1000:]}") from failure
        finally:
            process.stdin.close()
            stop(process)


def hold_ours(bench, server, count):
    return holding([bench.mwstorage, "benchmark", "idle", *server.client_arguments, "--connections", count], count)


def hold_peer(server, count):
    files = server.certificates
    return holding([sys.executable, "-B", HERE / "holder.py", server.name, server.port, files.client, files.client_key, files.trust, count],
                   count)


def memory_of(server, held, count):
    """KiB that each of `count` held connections takes, and how long it took to open them all."""
    before, begin = server.resident_kib(), time.monotonic()
    with held:
        seconds = time.monotonic() - begin
        return {"kib_each": (server.resident_kib() - before) / count, "opened_per_second": count / seconds,
                "memory_kib": server.resident_kib()}


def measure_idle(bench, rows):
    count = IDLE_CONNECTIONS // 10 if bench.is_quick else IDLE_CONNECTIONS
    for row in rows:
        def measure():
            series = {}
            for name, start in (("native", bench.ours), ("redis", bench.redis), ("nginx", bench.nginx)):
                with bench.substack() as stack:
                    server = start(stack=stack)
                    held = hold_ours(bench, server, count) if name == "native" else hold_peer(server, count)
                    series[name] = [memory_of(server, held, count)]
            return Result(row, series, ["redis", "nginx"])
        yield bench.attempt(row, measure)


# MARK: Several event loops

LOOP_ROWS = [
    Row("loops 64x16", "GET of 1 KiB, hot values, 64 connections, 16 in flight on each; server and load on all processors"),
    Row("loops spread", "the part of all event loops' processor time that the busiest of 2 has, under 64 connections",
        [Budget("2 loops", "busiest_share", 0.55, 0.65)])]


def measure_loops(bench, rows):
    servers = {f"{count} loop{'s' * (count > 1)}": bench.ours(event_loops=count, cpus=ALL_CPUS) for count in (1, 2)}
    for server in servers.values():
        bench.load(server, "fill").fill()
        settle(server.pid)
    for row in rows:
        if row.name == "loops spread":
            yield bench.attempt(row, lambda: measure_spread(bench, row, servers["2 loops"]))
            continue
        contenders = {name: bench.our_contender(server, "get", 64, 16, cpus=ALL_CPUS) for name, server in servers.items()}
        contenders["1 loop"].is_peer = True
        yield bench.compare(row, contenders)


def measure_spread(bench, row, server):
    load = bench.load(server, "get", 64, 1, cpus=ALL_CPUS)

    def times():
        return {name: seconds for name, seconds in thread_cpu_seconds(server.pid).items() if name.startswith("NIO-ELT")}

    samples = []
    for _ in range(bench.rounds):
        before = times()
        load.run(20_000)
        used = sorted(seconds - before[name] for name, seconds in times().items())
        samples.append({"busiest_share": used[-1] / sum(used), "event_loops": len(used)})
    return Result(row, {"2 loops": samples})


# MARK: Beside something else

def beside_row(name, about):
    return Row(f"beside {name}", f"p99 of GET of 1 KiB, {BESIDE_RATE:,} a second, beside {about}; 2 event loops on one processor, where they "
               "compete for it, and on one each, with the load on both, but what goes on over one connection where that is served",
               [Budget("beside", "p99_us", 3, 3, "quiet"), Budget("beside apart", "p99_us", 3, 3, "quiet apart")])


BESIDE_ROWS = [
    beside_row("scan", "a scan of all 100,000 keys, over and over"),
    beside_row("handshakes", "full handshakes, 4 at a time"),
    beside_row("large", f"gets of {BULK_BYTES >> 20} MiB, one after the other")]


def measure_beside(bench, rows):
    servers = {suffix: bench.ours("--maximum-message", "64MiB", event_loops=2, cpus=cpus)
               for suffix, cpus in (("", SERVER_CPU), (" apart", ALL_CPUS))}
    for ours in servers.values():
        bench.load(ours, "fill", keys=100_000).fill()
        settle(ours.pid)
    spread_threads(servers[" apart"].pid, "NIO-ELT", ALL_CPUS)
    for row in rows:
        contenders = {}
        for suffix, ours in servers.items():
            cpus = ALL_CPUS if suffix else LOAD_CPU
            # The keys that are hot, among those that are scanned.
            quiet, beside = (
                bench.our_contender(ours, "get", 1, 16, options=("--rate", BESIDE_RATE), cpus=cpus) for _ in range(2))
            quiet.is_peer = True
            beside.around = heavy_background(bench, ours, row.name.split()[1], cpus)
            contenders |= {f"quiet{suffix}": quiet, f"beside{suffix}": beside}
        yield bench.compare(row, contenders, seconds=max(bench.seconds, 1.5 if not bench.is_quick else 0))


def heavy_background(bench, server, name, cpus):
    """Keeps a server busy. Where each event loop has a processor, the client of the one that is kept busy by a single connection shares it:
    over a loopback who acknowledges data also does the sending of what waits behind it, and a receiver of 16 MiB on the other processor would
    keep that from the loop there for milliseconds, in the kernel, which is not what is asked here."""
    follows = len(cpus) > 1 and name != "handshakes"
    return Background(heavy_work(bench, server, name), cpus,
                      chosen_cpus=(lambda: busiest_thread_cpus(server.pid, "NIO-ELT")) if follows else None)


def heavy_work(bench, server, name):
    """The command that keeps a server busy."""
    benchmark, files = [bench.mwstorage, "benchmark"], server.certificates
    if name == "scan":
        return [*benchmark, "scan", *server.client_arguments, "--keys", 100_000, "--connections", 1, "--scan-entries", 1000, *FOREVER]
    if name == "handshakes":
        return [*benchmark, "handshake", *server.client_arguments, "--connections", 4, *FOREVER]
    return [sys.executable, "-B", HERE / "bulk.py", server.port, files.client, files.client_key, files.trust, BULK_BYTES]


# MARK: Growth

GROWTH_ROWS = [
    Row("growth 1k keys", "1,000 keys of 16 bytes: filling, memory, disk, start, gets"),
    Row("growth 100k keys", "100,000 keys of 16 bytes: filling, memory, disk, start, gets"),
    Row("growth 10m keys", "10,000,000 keys of 16 bytes: filling, memory, disk, start, gets", is_default=False),
    Row("growth 1 connection", "memory of a connection, and GETs (16 connections, 1 in flight) beside 1 that is idle"),
    Row("growth 1k connections", "memory of a connection, and GETs (16 connections, 1 in flight) beside 1,000 that are idle"),
    Row("growth 10k connections", "memory of a connection, and GETs (16 connections, 1 in flight) beside 10,000 that are idle"),
    Row("growth 1 watcher", "memory of a watcher, when it knows of a put of 1 KiB"),
    Row("growth 10k watchers", "memory of a watcher, when the last of 10,000 knows of a put of 1 KiB")]
FILL_BATCH = 64


def measure_growth(bench, rows):
    measures = {"keys": growth_of_keys, "connections": growth_of_connections, "watchers": growth_of_watchers}
    for row in rows:
        _, count, what = row.name.split()
        number = int(count.replace("k", "000").replace("m", "000000"))
        measure = measures[what if what.endswith("s") else what + "s"]
        with bench.substack() as stack:
            yield bench.attempt(row, lambda: Result(row, {"native": [measure(bench, stack, number)]}))


def disk_kib(path):
    return int(run(["du", "--summarize", "--block-size=1K", path], ALL_CPUS).output.split()[0])


def growth_of_keys(bench, stack, keys):
    with tempfile.TemporaryDirectory(prefix="growth-", dir=bench.work) as directory:
        more = {"keys": keys, "value": "16"}
        with bench.substack() as first:
            server = bench.ours(directory=directory, stack=first)
            before, cpu = server.resident_kib(), server.cpu_seconds()
            filled = bench.load(server, "fill", options=("--keys-per-request", FILL_BATCH), **more).fill(in_flight=16)
            cpu = server.cpu_seconds() - cpu
            settle(server.pid)
            memory = server.resident_kib() - before
        begin = time.monotonic()
        server = bench.ours(directory=directory, stack=stack)
        started = time.monotonic() - begin
        contender = bench.our_contender(server, "get", 16, 16, **more)
        contender.prepare(bench.seconds)
        sample = contender.sample()
        return {"filled_per_second": keys / max(filled["seconds"], 1e-6), "fill_cpu_us_each": cpu / keys * 1e6,
                "memory_bytes_each": memory * 1024 / keys, "disk_bytes_each": disk_kib(f"{directory}/data") * 1024 / keys,
                "start_seconds": started, "get_cpu_us": sample["server_cpu_us"], "get_p99_us": sample["p99_us"]}


def growth_of_connections(bench, stack, count):
    if bench.is_quick:
        count = min(count, 1000)
    server = bench.ours(stack=stack)
    bench.load(server, "fill").fill()
    settle(server.pid)
    before, begin = server.resident_kib(), time.monotonic()
    with hold_ours(bench, server, count):
        opened, memory = time.monotonic() - begin, server.resident_kib() - before
        contender = bench.our_contender(server, "get", 16, 1)
        contender.prepare(bench.seconds)
        sample = contender.sample()
    return {"kib_each": memory / count, "opened_per_second": count / opened, "get_cpu_us": sample["server_cpu_us"],
            "get_p99_us": sample["p99_us"]}


def growth_of_watchers(bench, stack, count):
    if bench.is_quick:
        count = min(count, 1000)
    server = bench.ours("--durability", "os", stack=stack)
    before = server.resident_kib()
    said = run_watch(bench.watch_binary, server, "native", count, 20 if count > 1 else 200)
    # The most that it had: the bench's connections end with it.
    most = resident_kib(server.pid, "VmHWM")
    return {"kib_each": (most - before) / count, "last_p50_us": said["last_p50_us"], "last_p99_us": said["last_p99_us"]}


GROUPS = [
    Group("handshake", "full handshakes beside nginx and the floor", HANDSHAKE_ROWS, measure_handshake),
    Group("idle", "memory of idle connections beside Redis and nginx", IDLE_ROWS, measure_idle),
    Group("loops", "one event loop and two", LOOP_ROWS, measure_loops),
    Group("beside", "gets while something heavy goes on", BESIDE_ROWS, measure_beside),
    Group("growth", "more keys, connections and watchers", GROWTH_ROWS, measure_growth),
]
