"""What drives the servers: `mwstorage benchmark` for ours and the floor, the peers' own generators for theirs.

Every load has `run(requests)`, which returns a dictionary with: requests, seconds, p50_us, p99_us, p999_us, failures, wrong,
generator_cpu_us (of each request) and generator_cpu_share (of one processor).
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

from processes import LOAD_CPU, PINNED, Failure, move_group, run, spawn, stop

KEYS_LESS_EACH_RUN = 997
HERE = pathlib.Path(__file__).parent


def checked(result):
    """A load's result; a failure if not every reply was right."""
    if result["failures"] or result["wrong"]:
        raise Failure(f"{result['failures']} requests failed, {result['wrong']} had wrong replies")
    return result


class OurLoad:
    """`mwstorage benchmark KIND` against one of our servers, or the floor."""

    # Its time and latencies begin when all connections are open; its processor time does not.
    opens_in_measured_time = False

    @property
    def holds_connections(self):
        """Whether its connections are opened before the requests; a load of handshakes is nothing else."""
        return self.kind != "handshake"

    def __init__(self, binary, server, kind, connections=16, in_flight=1, *, protocol="native", value="1KiB", keys=10_000, options=(),
                 cpus=None, is_always_new=False):
        self.binary, self.server, self.kind = binary, server, kind
        self.connections, self.in_flight, self.cpus = connections, in_flight, cpus or LOAD_CPU
        self.keys, self.is_always_new = keys, is_always_new
        self.arguments = ["--value-bytes", value, "--protocol", protocol, *options]

    def command(self, kind, *arguments):
        return [self.binary, "benchmark", kind, *self.server.client_arguments, "--keys", self.keys, *self.arguments, *arguments]

    def fill(self, *, in_flight=256):
        """Puts the value of every key."""
        return self.parsed(run(self.command("fill", "--connections", 1, "--in-flight", in_flight, "-o", "json"), self.cpus, timeout=1800))

    def run(self, requests):
        if self.is_always_new:
            # The same number of keys would mean the same keys in the same order: what the run before has just brought into the caches.
            self.keys -= KEYS_LESS_EACH_RUN
        return self.parsed(run(
            self.command(self.kind, "--connections", self.connections, "--in-flight", self.in_flight, "--requests", requests,
                         "-o", "json"), self.cpus))

    @staticmethod
    def parsed(finished):
        said = json.loads(finished.output.strip().splitlines()[-1])
        same = ("requests", "seconds", "p50_us", "p99_us", "p999_us", "failures", "wrong", "generator_cpu_share")
        return checked({name: said[name] for name in same} | {"generator_cpu_us": said["generator_cpu_us_per_request"]})


class RedisLoad:
    """`redis-benchmark`, with the counters of Redis to see that every get found something and nothing failed."""

    opens_in_measured_time = True
    holds_connections = True

    def __init__(self, server, command, connections=16, in_flight=1, *, value_bytes=1024, keys=10_000, finds=True):
        self.server, self.connections, self.in_flight = server, connections, in_flight
        self.counters = ["total_error_replies", "keyspace_misses"] if finds else ["total_error_replies"]
        self.arguments = ["-c", connections, "-P", in_flight, "-d", value_bytes, "-r", keys, *command]

    def run(self, requests):
        before = self.server.counter(*self.counters)
        finished = run(["redis-benchmark", *self.server.client_arguments, "-n", requests, *self.arguments], LOAD_CPU)
        result = self.parsed(finished.output, requests, self.connections * self.in_flight, finished)
        result["failures"] = self.server.counter(*self.counters) - before
        return checked(result)

    @staticmethod
    def parsed(text, requests, first, finished):
        """What redis-benchmark says. The `first` requests of its connections wait for their handshakes, which ours do not count: they are
        left out of the percentiles, as those that took longest."""
        rate = re.search(r"throughput summary: ([\d.]+)", text)
        if not rate:
            raise Failure(f"redis-benchmark said no throughput: {text[-500:]}")
        distribution = re.findall(r"([\d.]+)% <= ([\d.]+) milliseconds \(", text)

        def percentile(wanted):
            share_wanted = wanted * max(requests - first, 0) / requests
            return next((float(limit) * 1000 for share, limit in distribution if float(share) >= share_wanted), 0.0)

        return {
            "requests": requests, "seconds": requests / float(rate[1]), "p50_us": percentile(50), "p99_us": percentile(99),
            "p999_us": percentile(99.9), "failures": 0, "wrong": 0, "generator_cpu_us": finished.cpu_seconds / requests * 1e6,
            "generator_cpu_share": finished.cpu_seconds / finished.seconds}


class EtcdLoad:
    """Puts, or linearizable gets, over gRPC: see etcd_load.py."""

    opens_in_measured_time = False
    holds_connections = True

    def __init__(self, server, kind, connections=16, in_flight=4, *, value_bytes=1024, keys=10_000):
        files = server.certificates
        self.connections, self.in_flight = connections, in_flight
        self.arguments = [
            sys.executable, "-B", HERE / "etcd_load.py", kind, "--port", server.port, "--certificate", files.client,
            "--key", files.client_key, "--trust", files.trust, "--connections", connections, "--in-flight", in_flight,
            "--value-bytes", value_bytes, "--keys", keys]

    def run(self, requests):
        return checked(json.loads(run([*self.arguments, "--requests", requests], LOAD_CPU).output))


class HandshakeLoad:
    """Full handshakes with a client certificate and one HTTP request each, by `openssl s_time`, the same for any server."""

    opens_in_measured_time = False
    holds_connections = False
    connections = 4
    in_flight = 1
    def __init__(self, server):
        self.server = server

    def run(self, requests):
        """`requests` is how many there are to be, roughly: s_time is told a time in whole seconds."""
        return self.run_for(max(1, round(requests / 400)))

    def run_for(self, whole_seconds):
        files = self.server.certificates
        command = ["openssl", "s_time", "-new", "-connect", f"localhost:{self.server.port}", "-cert", files.client, "-key",
                   files.client_key, "-CAfile", files.trust, "-verify", 2, "-tls1_3", "-www", "/", "-time", whole_seconds]
        begin = time.monotonic()
        # One is parsed for all: each says how many connections it made in which time.
        script = " & ".join(["\"$@\""] * self.connections) + " & wait"
        finished = run(["sh", "-c", script, "sh", *command], LOAD_CPU)
        seconds = time.monotonic() - begin
        counts = [int(count) for count in re.findall(r"(\d+) connections in \d+ real seconds", finished.output)]
        if len(counts) != self.connections or not all(counts):
            raise Failure(f"s_time made no connections: {finished.output[-500:]}")
        total = sum(counts)
        each = seconds * 1e6 * self.connections / total
        return {
            "requests": total, "seconds": seconds, "p50_us": each, "p99_us": 0.0, "p999_us": 0.0, "failures": 0, "wrong": 0,
            "generator_cpu_us": finished.cpu_seconds / total * 1e6, "generator_cpu_share": finished.cpu_seconds / seconds}


# What the generator takes is for each notification, and as a share of one processor; looking whether something has come does not count.
WATCH_METRICS = (
    "first_p50_us", "first_p99_us", "last_p50_us", "last_p99_us", "answered_p50_us", "answered_p99_us", "generator_cpu_us",
    "generator_cpu_share")


def run_watch(binary, server, dialect, watchers, writes):
    """Writes so many times, one after the other, and waits each time until all watchers know: the WATCH_METRICS."""
    files = server.certificates
    finished = run([binary, "--dialect", dialect, "--port", server.port, "--watchers", watchers, "--rounds", writes, "--certificate",
                    files.client, "--key", files.client_key, "--trust", files.trust, *(["--polls"] if PINNED else [])],
                   LOAD_CPU, timeout=600)
    return dict(zip(WATCH_METRICS, map(float, finished.output.split())))


class Background:
    """Something that goes on beside a measurement, as a context manager; it gives way to the load on their processor."""

    # Until it has begun what it does.
    begins_seconds = 1

    def __init__(self, command, cpus=None, *, chosen_cpus=None):
        """`chosen_cpus` is called once it has begun, and tells the processors that it has from then on."""
        self.command, self.cpus, self.chosen_cpus = command, cpus or LOAD_CPU, chosen_cpus
        self.process = None

    def __enter__(self):
        script = "while :; do \"$@\" || exit; done"
        self.errors = tempfile.TemporaryFile()
        # A group of its own and not a session: the kernel gives each session the same share (sched_autogroup_enabled), and who is idle in
        # his would not give way to another's.
        self.process = spawn(["sh", "-c", script, "sh", *self.command], self.cpus, idle=True, process_group=0,
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.errors)
        time.sleep(self.begins_seconds)
        if self.chosen_cpus:
            move_group(self.process.pid, self.chosen_cpus())
        return self

    def __exit__(self, kind, *_):
        ended = self.process.poll()
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        stop(self.process)
        self.errors.seek(0)
        said = self.errors.read().decode(errors="replace")
        self.errors.close()
        if ended is not None and kind is None:
            raise Failure(f"what was to go on beside it ended: {said[-1000:]}")
