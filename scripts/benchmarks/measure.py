"""Measuring contenders in turn, and judging what came of it."""

import contextlib
import statistics
from dataclasses import dataclass, field

from processes import Failure, settle, synchronize_disks

# A load is tried with more and more requests until it takes this share of the time that a round is to take.
TRIAL_SHARE = 0.3
# Opening the connections is measured so often, and is to be at most this share of the processor time of a round, which is made longer for
# that, up to so many times.
OPENING_TRIES = 2
OPENING_SHARE = 0.1
LONGEST_ROUND = 4
# The numbers of a load's sample, in the order of the output.
METRICS = (
    "per_second", "p50_us", "p99_us", "p999_us", "server_cpu_us", "per_cpu_second", "generator_cpu_us", "generator_cpu_share", "memory_kib")


@dataclass
class Budget:
    """What a row must reach: a metric of ours, at most (or at least) so many times the peer's, or so much where there is no peer."""

    ours: str
    metric: str
    aim: float
    must: float
    peer: str = ""
    at_least: bool = False
    # The budget names two limits of different kinds where the must is a number and the aim a ratio.
    must_absolute: bool = False

    def judge(self, result):
        """The value, and whether it reaches the aim, the must, or neither."""
        if any(name not in result.series for name in (self.ours, self.peer) if name):
            return {"verdict": "not measured", "value": None}
        own = result.median(self.ours, self.metric)
        value = result.ratio(self.ours, self.peer, self.metric) if self.peer else own

        def reaches(number, limit):
            return number >= limit if self.at_least else number <= limit

        verdict = "aim" if reaches(value, self.aim) else "must" if reaches(own if self.must_absolute else value, self.must) else "missed"
        return {"verdict": verdict, "value": value}

    def describe(self):
        """The aim and the must, with their units."""
        sign = ">=" if self.at_least else "<="
        unit = " KiB" if "kib" in self.metric else " us" if "_us" in self.metric else ""
        aim = f"{self.aim:g} x" if self.peer else f"{self.aim:g}{unit}"
        must = f"{self.must:g} x" if self.peer and not self.must_absolute else f"{self.must:g}{unit}"
        return f"aim {sign} {aim}, must {sign} {must}"


@dataclass
class Row:
    """One row of the table: what is measured, and what it must reach."""

    name: str
    about: str
    budgets: list = field(default_factory=list)
    # Whether it is measured with its group, or has to be named.
    is_default: bool = True


@dataclass
class Result:
    """All rounds of a row: for each contender, a list of samples."""

    row: Row
    series: dict = field(default_factory=dict)
    # Those among them that ours are compared with.
    peers: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    failure: str = ""

    def values(self, name, metric):
        return [sample[metric] for sample in self.series[name] if metric in sample]

    def median(self, name, metric):
        return statistics.median(self.values(name, metric) or [0.0])

    def ratio(self, name, peer, metric):
        """The median over the rounds of the ratio within each: neighbours' noise meets both alike."""
        pairs = list(zip(self.values(name, metric), self.values(peer, metric)))
        return statistics.median([ours / theirs for ours, theirs in pairs if theirs] or [0.0])

    def verdicts(self):
        return [(budget, budget.judge(self)) for budget in self.row.budgets]


@dataclass
class Contender:
    """A server under a load. `around` is a context in which it is measured: what goes on beside it."""

    server: object
    load: object
    around: object = contextlib.nullcontext()
    is_peer: bool = False
    # What it leaves for later, such as compaction and what is to be written to disk, is waited for: it is its own cost, and nobody else's.
    defers_work: bool = False
    # Found by `prepare`: requests that take about as long as a round is to take; what it costs to open the connections and to make a few
    # requests. The rest of a run's cost is its other requests'.
    requests: int = 0
    opening_requests: int = 0
    opening_seconds: float = 0.0
    opening_cpu_seconds: float = 0.0

    def once(self, requests):
        """One run of the load, and the server's processor time in it."""
        before = self.server.cpu_seconds()
        result = self.load.run(requests)
        if self.defers_work:
            settle(self.server.pid, limit=5)
            synchronize_disks()
        return result, self.server.cpu_seconds() - before

    def prepare(self, seconds):
        """Warms up, and finds how many requests make a round."""
        if self.load.holds_connections:
            self.opening_requests = self.load.connections * self.load.in_flight
            tries = [self.once(self.opening_requests) for _ in range(OPENING_TRIES)]
            self.opening_cpu_seconds = min(cpu for _, cpu in tries)
            self.opening_seconds = min(result["seconds"] for result, _ in tries)
        requests = max(self.load.connections * self.load.in_flight * 5, 20)
        while True:
            result, cpu = self.once(requests)
            rate = self.rate(result)
            if result["requests"] / rate >= seconds * TRIAL_SHARE:
                break
            requests = int(min(max(rate * seconds * 0.6, requests * 2), requests * 20))
        # So many that it does not matter how well the opening was measured, unless that takes too long.
        enough = self.opening_cpu_seconds / OPENING_SHARE / self.each(cpu, self.opening_cpu_seconds, result["requests"])
        self.requests = max(int(rate * seconds), int(min(enough, rate * seconds * LONGEST_ROUND)), self.opening_requests * 4, 1)

    def rate(self, result):
        """Requests a second, the opening of connections not counted."""
        if self.load.opens_in_measured_time:
            return 1 / self.each(result["seconds"], self.opening_seconds, result["requests"])
        return result["requests"] / max(result["seconds"], 1e-6)

    def each(self, total, opening, requests):
        """What one request takes of a total that includes the opening, which was measured before: on a noisy machine, perhaps too much."""
        return max(total - min(opening, total / 2), 1e-6) / max(requests - self.opening_requests, 1)

    def sample(self):
        """One round."""
        with self.around:
            result, cpu = self.once(self.requests)
        requests = result["requests"]
        server_cpu = self.each(cpu, self.opening_cpu_seconds, requests)
        return {
            "requests": requests, "seconds": result["seconds"], "per_second": self.rate(result), "p50_us": result["p50_us"],
            "p99_us": result["p99_us"], "p999_us": result["p999_us"], "generator_cpu_us": result["generator_cpu_us"],
            "generator_cpu_share": result["generator_cpu_share"], "memory_kib": self.server.resident_kib(),
            "server_cpu_us": server_cpu * 1e6, "per_cpu_second": 1 / server_cpu}


def compare(row, contenders, rounds, seconds):
    """Measures the contenders in turn (A B C, B C A, …), `rounds` times each."""
    result = Result(row, {name: [] for name in contenders}, [name for name in contenders if contenders[name].is_peer])
    for name, contender in contenders.items():
        with naming(name):
            contender.prepare(seconds)
    names = list(contenders)
    for round in range(rounds):
        first = round % len(names)
        for name in names[first:] + names[:first]:
            with naming(name):
                result.series[name].append(contenders[name].sample())
    return result


@contextlib.contextmanager
def naming(name):
    """Says whose a failure is."""
    try:
        yield
    except Failure as failure:
        raise Failure(f"{name}: {failure}") from failure
