"""What every group of rows needs: the options, the programs, the certificates, and a way to start servers and to compare them."""

import contextlib
import functools
import pathlib
import tempfile
from dataclasses import dataclass, field

from loads import OurLoad, RedisLoad
from measure import Contender, Result, compare
from processes import ALL_CPUS, Failure, run, synchronize_disks
from servers import Certificates, Etcd, Floor, MWStorage, Nginx, Redis

HERE = pathlib.Path(__file__).parent


@dataclass
class Group:
    """Rows that share servers. `measure(bench, rows)` yields a result for each of the rows that are wanted."""

    name: str
    about: str
    rows: list
    measure: object
    # Whether it is a part of the whole budget, or has to be named.
    is_default: bool = True


@dataclass
class Bench:
    """One run."""

    mwstorage: pathlib.Path
    work: pathlib.Path
    rounds: int
    seconds: float
    engines: list
    is_quick: bool = False
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @functools.cached_property
    def certificates(self):
        return Certificates(self.mwstorage, self.work / "certificates")

    @functools.cached_property
    def floor_binary(self):
        binary = self.work / "floor"
        run(["cc", "-O2", "-o", binary, HERE / "floor" / "floor.c", "-lssl", "-lcrypto", "-lrocksdb"], ALL_CPUS)
        return binary

    @property
    def watch_binary(self):
        binary = self.mwstorage.with_name("mwstorage-bench")
        if not binary.exists():
            raise Failure(f"there is no {binary}; build it: swift build -c release --static-swift-stdlib --product mwstorage-bench")
        return binary

    # MARK: Servers; each lives until the group's end, or that of the stack it is given.

    def substack(self):
        """For servers that do not live as long as their group."""
        return contextlib.ExitStack()

    def start(self, kind, *arguments, stack=None, **options):
        return (stack or self.stack).enter_context(kind(*arguments, **options))

    def ours(self, *options, **more):
        return self.start(MWStorage, self.mwstorage, self.certificates, *options, **more)

    def floor(self, **more):
        return self.start(Floor, self.floor_binary, self.certificates, **more)

    def redis(self, fsync="everysec", **more):
        return self.start(Redis, self.certificates, fsync, **more)

    def nginx(self, **more):
        return self.start(Nginx, self.certificates, **more)

    def etcd(self, **more):
        return self.start(Etcd, self.certificates, **more)

    # MARK: Contenders

    def load(self, server, kind, *arguments, **options):
        return OurLoad(self.mwstorage, server, kind, *arguments, **options)

    def our_contender(self, server, kind, *arguments, **options):
        """Ours, or the floor, under `mwstorage benchmark`."""
        load = self.load(server, kind, *arguments, **options)
        return Contender(server, load, is_peer=isinstance(server, Floor), defers_work=kind == "put")

    def redis_contender(self, server, command, *arguments, **options):
        return Contender(server, RedisLoad(server, command, *arguments, **options), is_peer=True, defers_work="set" in command)

    # MARK: Measuring

    def compare(self, row, contenders, rounds=None, seconds=None):
        """A row's result; a failure is one, too."""
        return self.attempt(row, lambda: compare(row, contenders, rounds or self.rounds, seconds or self.seconds))

    def attempt(self, row, measure):
        """What `measure` returns, or the row's failure."""
        try:
            return measure()
        except Failure as failure:
            return Result(row, failure=str(failure))

    def run(self, group, rows):
        """The results of the wanted rows of a group; whatever it started has ended then."""
        done = set()
        synchronize_disks()
        try:
            with self.stack:
                for result in group.measure(self, rows):
                    done.add(result.row.name)
                    yield result
        except Failure as failure:
            for row in rows:
                if row.name not in done:
                    yield Result(row, failure=str(failure))


@contextlib.contextmanager
def workspace(parent):
    """A directory for the run."""
    with tempfile.TemporaryDirectory(prefix="mwstorage-bench-", dir=parent, ignore_cleanup_errors=True) as directory:
        yield pathlib.Path(directory)
