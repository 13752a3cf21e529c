"""Rows about gets, puts and scans, beside Redis and the floor."""

import re

from bench import Group
from measure import Budget, Row
from processes import LOAD_CPU, run, settle

SHAPES = ["16x1", "16x16", "64x1", "64x64"]
KEYS_OF_MULTI_GET = 16
COLD_KEYS = 1_000_000


def shape_of(text):
    """`16x1` is 16 connections with 1 request in flight on each."""
    connections, in_flight = text.split("x")
    return int(connections), int(in_flight)


def in_words(shape):
    connections, in_flight = shape_of(shape)
    return f"{connections} connection{'s' * (connections > 1)}, {in_flight} in flight on each"


def lighter(ours, aim, must, peer="redis"):
    """Server CPU of a request against a peer's."""
    return Budget(ours, "server_cpu_us", aim, must, peer)


def engines_of(binary):
    """The engines to choose between for cold gets, as far as a build has them, the default first."""
    return [name for name in ("rocksdb", "lmdb") if re.search(rf"\b{name}\b", run([binary, "serve", "--help"], LOAD_CPU).output)]


# MARK: Hot gets

def get_rows():
    for shape in SHAPES:
        aim = 0.9 if shape.endswith("x1") else 0.7
        yield Row(f"get {shape}", f"GET of 1 KiB, hot values, {in_words(shape)}", [lighter("native", aim, 1.3), lighter("mwdb", aim, 1.3)])


def protocols(bench, server, kind, *arguments, **options):
    """A contender for each of our two protocols."""
    return {name: bench.our_contender(server, kind, *arguments, protocol=name, **options) for name in ("native", "mwdb")}


def hot_servers(bench, keys=10_000):
    """Ours, the floor and Redis with the same keys, all of them in memory."""
    ours, floor, redis = bench.ours(), bench.floor(), bench.redis()
    for server in (ours, floor):
        bench.load(server, "fill", protocol="mwdb", keys=keys).fill()
    redis.fill(keys, 1024)
    settle(ours.pid)
    return ours, floor, redis


def measure_get(bench, rows):
    ours, floor, redis = hot_servers(bench)
    for row in rows:
        shape = shape_of(row.name.split()[1])
        yield bench.compare(row, {
            **protocols(bench, ours, "get", *shape), "redis": bench.redis_contender(redis, ["-t", "get"], *shape),
            "floor": bench.our_contender(floor, "get", *shape, protocol="mwdb")})


# MARK: Several keys in a request

def multi_rows():
    for shape in ["16x1", "16x16"]:
        yield Row(f"multi-get {shape}", f"GET of {KEYS_OF_MULTI_GET} keys of 1 KiB in a request, hot values, {in_words(shape)}",
                  [lighter("native", 0.7, 1.3), lighter("mwdb", 0.7, 1.3)])


def measure_multi(bench, rows):
    ours, floor, redis = hot_servers(bench)
    several = ("--keys-per-request", KEYS_OF_MULTI_GET)
    command = ["mget", *["key:__rand_int__"] * KEYS_OF_MULTI_GET]
    for row in rows:
        shape = shape_of(row.name.split()[1])
        yield bench.compare(row, {
            **protocols(bench, ours, "get", *shape, options=several), "redis": bench.redis_contender(redis, command, *shape),
            "floor": bench.our_contender(floor, "get", *shape, protocol="mwdb", options=several)})


# MARK: Cold gets

def cold_rows():
    yield Row("cold 16x16", f"GET of 1 KiB from 1 GB at random, {in_words('16x16')}; the floor reads from RocksDB, too",
              [lighter("native rocksdb", 1.3, 2, "floor rocksdb")])
    yield Row("cold 16x1", f"GET of 1 KiB from 1 GB at random, {in_words('16x1')}; the floor reads from RocksDB, too")


def measure_cold(bench, rows):
    keys = COLD_KEYS // 20 if bench.is_quick else COLD_KEYS
    floor = bench.floor(with_rocksdb=True)
    servers = {f"native {engine}": bench.ours("--engine", engine, "--durability", "os") for engine in bench.engines}
    servers["floor rocksdb"] = floor
    for name, server in servers.items():
        bench.load(server, "fill", protocol="mwdb", keys=keys, options=("--keys-per-request", 16)).fill(in_flight=32)
        settle(server.pid)
    for row in rows:
        shape = shape_of(row.name.split()[1])
        result = bench.compare(row, {
            name: bench.our_contender(server, "get", *shape, keys=keys, protocol="mwdb" if server is floor else "native",
                                      is_always_new=True)
            for name, server in servers.items()})
        for engine in bench.engines[1:]:
            first, other = f"native {bench.engines[0]}", f"native {engine}"
            if not result.failure:
                result.notes.append(f"{other} / {first}: CPU {result.ratio(other, first, 'server_cpu_us'):.2f}")
        yield result


# MARK: Puts

def put_rows():
    for shape in ["64x1", "64x64", "16x16", "1x1"]:
        budgets = [Budget("durable", "per_second", 1.5, 0.9, "redis always", at_least=True)] if shape.startswith("64") else []
        yield Row(f"put {shape}", f"PUT of 1 KiB, {in_words(shape)}; durable and always: on the disk before the reply", budgets)


def measure_put(bench, rows):
    durable, relaxed = bench.ours(), bench.ours("--durability", "os")
    always, each_second = bench.redis("always"), bench.redis()
    for row in rows:
        shape = shape_of(row.name.split()[1])
        yield bench.compare(row, {
            "durable": bench.our_contender(durable, "put", *shape),
            "redis always": bench.redis_contender(always, ["-t", "set"], *shape, finds=False),
            "os": bench.our_contender(relaxed, "put", *shape),
            "redis everysec": bench.redis_contender(each_second, ["-t", "set"], *shape, finds=False)})


# MARK: Large values

LARGE = {
    # Size, bytes, connections, keys
    "64k": ("64KiB", 64 << 10, 16, 256), "1m": ("1MiB", 1 << 20, 4, 16), "16m": ("16MiB", 16 << 20, 2, 2)}


def large_rows():
    yield Row("get 64k", f"GET of 64 KiB, hot values, {in_words('16x1')}", [lighter("native", 0.8, 1.2)])
    yield Row("get 1m", f"GET of 1 MiB, {in_words('4x1')}")
    yield Row("get 16m", f"GET of 16 MiB, {in_words('2x1')}")
    yield Row("put 64k", "PUT of 64 KiB, 1 connection, 1 in flight; Redis stalls for 44 ms a request on loopback")


def measure_large(bench, rows):
    for row in rows:
        with bench.substack() as stack:
            kind, size = row.name.split()
            measure = measure_large_put if kind == "put" else measure_large_get
            yield bench.attempt(row, lambda: measure(bench, row, stack, *LARGE[size]))


def measure_large_get(bench, row, stack, value, value_bytes, connections, keys):
    ours, floor, redis = bench.ours("--maximum-message", "64MiB", stack=stack), bench.floor(stack=stack), bench.redis(stack=stack)
    more = {"value": value, "keys": keys}
    for server in (ours, floor):
        bench.load(server, "fill", protocol="mwdb", **more).fill(in_flight=1)
    redis.fill(keys, value_bytes)
    return bench.compare(row, {
        "native": bench.our_contender(ours, "get", connections, 1, **more),
        "redis": bench.redis_contender(redis, ["-t", "get"], connections, 1, keys=keys),
        "floor": bench.our_contender(floor, "get", connections, 1, protocol="mwdb", **more)})


def measure_large_put(bench, row, stack, value, value_bytes, connections, keys):
    ours, redis = bench.ours(stack=stack), bench.redis("always", stack=stack)
    return bench.compare(row, {
        "durable": bench.our_contender(ours, "put", 1, 1, value=value, keys=keys),
        "redis always": bench.redis_contender(redis, ["-t", "set"], 1, 1, value_bytes=value_bytes, keys=keys, finds=False)})


# MARK: Scans

def scan_rows():
    yield Row("scan 1x1", "pages of 100 entries of 1 KiB, one after the other, 1 connection")
    yield Row("scan 16x1", f"pages of 100 entries of 1 KiB, {in_words('16x1')}")


def measure_scan(bench, rows):
    keys = 20_000
    ours = bench.ours()
    bench.load(ours, "fill", keys=keys).fill()
    settle(ours.pid)
    for row in rows:
        yield bench.compare(row, {
            "native": bench.our_contender(ours, "scan", *shape_of(row.name.split()[1]), keys=keys, options=("--scan-entries", 100))})


GROUPS = [
    Group("get", "gets of hot values beside Redis and the floor", list(get_rows()), measure_get),
    Group("multi-get", "several keys in a request, beside MGET of Redis and the floor", list(multi_rows()), measure_multi),
    Group("cold", "gets from more than fits the cache, beside the floor with RocksDB", list(cold_rows()), measure_cold),
    Group("put", "puts beside Redis that syncs always, or each second", list(put_rows()), measure_put),
    Group("large", "large values beside Redis and the floor", list(large_rows()), measure_large),
    Group("scan", "pages of a scan", list(scan_rows()), measure_scan),
]
