"""The command line of the benchmark: see scripts/bench."""

import argparse
import json
import os
import pathlib
import resource
import signal
import sys
import tempfile
import time

import plot
import report
import rows_connections
import rows_peers
import rows_requests
from bench import Bench, workspace
from processes import PINNED, Failure

GROUPS = [*rows_requests.GROUPS, *rows_connections.GROUPS, *rows_peers.GROUPS]
EPILOG = """\
how to read it
  Servers have processor 0, loads processor 1, unless a row says otherwise. The contenders of a row take turns (A B C, B C A, ...), once a
  round; numbers are medians over the rounds, with the least and the most. A ratio is the median of the rounds' own ratios, so that a busy
  neighbour meets both sides. Compare within one run only.
  server CPU us       user and system time of the server's process for a request (its CPU clock); opening the connections is measured
                      apart and subtracted. The steady figure where a machine is shared; throughput is not.
  generator CPU us    the same of the load generator, and its share of a processor: near 100 % it may be what was measured.
  native, mwdb        ours, in either protocol. durable: a put is on the disk before its reply; os: the system has it.
  floor               the least a server must do, in C: one thread, epoll, OpenSSL, WebSocket frames, a table in memory or RocksDB.
  rows                get, multi-get: values that are in memory. cold: 1 GB at random. large: 64 KiB to 16 MiB. loops: on all processors.
                      beside: gets while something heavy goes on. growth: what keys, connections and watchers cost. watch: from a write
                      until its watchers know. attack and acme have to be named; so have the rows that take minutes, or --growth.
  stalls              how often the machine takes a processor from who needs it, looked at before the first row. From 0.5 % of the time on they are
                      most of the p99 of gets that come at a rate. What the kernel does only under a load does not show here.
  aim, must           the budget of the row; the verdict is the better one that is reached.
  A reply that is wrong or missing fails its row, and the exit code is 1 then.
"""


def default_rows(group):
    return [row for row in group.rows if row.is_default]


def selected(words, groups, with_growth):
    """The groups and rows that are meant: by a group's name, a row's, or the beginning of one; without words the whole budget, and with
    `with_growth` the rows that take minutes, too."""
    if not words:
        return [(group, group.rows if with_growth else default_rows(group)) for group in groups if group.is_default]
    chosen, unknown = [], []
    for word in words:
        matched = next(filter(None, (
            [(group, default_rows(group)) for group in groups if group.name == word],
            [(group, [row]) for group in groups for row in group.rows if row.name == word],
            [(group, [row]) for group in groups for row in group.rows if row.name.startswith(word)])), [])
        if not matched:
            unknown.append(word)
        chosen += matched
    if unknown:
        raise Failure(f"there is no row '{unknown[0]}'; scripts/bench --list shows them")
    merged = {}
    for group, rows in chosen:
        names = merged.setdefault(group.name, (group, []))[1]
        names += [row for row in rows if row not in names]
    return list(merged.values())


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="scripts/bench", formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EPILOG,
        description="Measures the server beside its peers, row by row of its budget, in turn and pinned alike.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help="a group or a row, as --list has them (default: the whole budget)")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of each row (default: 5)")
    parser.add_argument("--seconds", type=float, metavar="S", help="how long one contender's round is (default: 1)")
    parser.add_argument("--quick", action="store_true", help="1 round of 0.3 s, and fewer keys: to see that it works")
    parser.add_argument("--growth", action="store_true", help="the whole budget, and the rows that take minutes: 10 million keys")
    parser.add_argument("--engines", default="", metavar="NAME,...",
                        help="our engines in the cold rows (default: rocksdb, and lmdb if this build has it)")
    parser.add_argument("--json", action="store_true", help="one document on standard output: machine, versions, rows with all rounds")
    parser.add_argument("--svg", type=pathlib.Path, metavar="FILE", help="only the plot, into FILE: throughput and latency against load")
    parser.add_argument("--list", action="store_true", help="the groups and rows, and what they mean")
    parser.add_argument("--mwstorage", type=pathlib.Path, metavar="FILE", help="measure this build instead of building one")
    parser.add_argument("--directory", type=pathlib.Path, metavar="DIR", help="where data goes (default: TMPDIR); a disk, not memory")
    options = parser.parse_intermixed_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.seconds = options.seconds or (0.3 if options.quick else 1.0)
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    return options


def list_rows():
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for group in GROUPS:
        print(f"{group.name}: {group.about}{'' if group.is_default else ' (only when named)'}")
        for row in group.rows:
            print(f"    {row.name:<22}{row.about}{'' if row.is_default else ' (only when named)'}")
            for budget in row.budgets:
                peer = f" against {budget.peer}" if budget.peer else ""
                print(f"    {'':<22}  {budget.ours}: {budget.metric}{peer}: {budget.describe()}")


def note(text):
    print(text, file=sys.stderr, flush=True)


def measure(options, work):
    """Every wanted row; whether all of them worked."""
    binary = options.mwstorage.absolute()
    engines = [name for name in options.engines.split(",") if name] or rows_requests.engines_of(binary)
    bench = Bench(binary, work, options.rounds, options.seconds, engines, options.quick)
    if options.svg:
        options.svg.write_text(plot.draw(plot.measure(bench, note)))
        return True
    chosen = selected(options.rows, GROUPS, options.growth)
    about_machine, about_versions = report.machine(work), report.versions(binary)
    if about_machine["file_system"] in ("tmpfs", "ramfs"):
        note("bench: the data is in memory, where a sync costs nothing: give --directory a directory on a disk")
    if not PINNED:
        note("bench: one processor only: server and load share it")
    say = note if options.json else print
    say(", ".join(f"{name} {value}" for about in (about_machine, about_versions) for name, value in about.items()))
    say(f"{options.rounds} rounds of {options.seconds:g} s each\n")
    results, begin = [], time.monotonic()
    for group, rows in chosen:
        group_begin = time.monotonic()
        for result in bench.run(group, rows):
            results.append(result)
            say(report.text_of(result) + "\n")
            sys.stdout.flush()
        note(f"bench: {group.name}: {time.monotonic() - group_begin:.0f} s")
    if any(row.budgets for _, rows in chosen for row in rows):
        say(report.summary(results))
    note(f"bench: {time.monotonic() - begin:.0f} s")
    if options.json:
        print(json.dumps(report.document(results, options, about_machine, about_versions)))
    return not any(result.failure for result in results)


def interrupted(*_):
    raise KeyboardInterrupt


def main():
    options = parse(sys.argv[1:])
    if options.list:
        return list_rows()
    if not options.mwstorage or not os.access(options.mwstorage, os.X_OK):
        raise Failure(f"--mwstorage: there is no program {options.mwstorage or ''}; without it, scripts/bench builds one")
    signal.signal(signal.SIGTERM, interrupted)
    signal.signal(signal.SIGHUP, interrupted)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with workspace(options.directory) as work:
        tempfile.tempdir = os.environ["TMPDIR"] = str(work)
        return 0 if measure(options, work) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"bench: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
