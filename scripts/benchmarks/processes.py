"""The processes of a run: pinned to processors, awaited, measured, and ended with it."""

import ctypes
import os
import pathlib
import re
import resource
import signal
import subprocess
import time
from dataclasses import dataclass

PR_SET_PDEATHSIG = 1
READY_SECONDS = 60
STOP_SECONDS = 30
# A server that uses less of a processor than this, for so long, has nothing left to do.
SETTLED_SECONDS = 0.15
SETTLED_SHARE = 0.05
# A processor that nobody else wants is never away for so long.
STALL_NS = 500_000

ALL_CPUS = os.sched_getaffinity(0)
# The server has the first processor, the load the second: alike for ours and the peers.
PINNED = len(ALL_CPUS) >= 2
SERVER_CPU = {sorted(ALL_CPUS)[0]} if PINNED else ALL_CPUS
LOAD_CPU = {sorted(ALL_CPUS)[1]} if PINNED else ALL_CPUS

libc = ctypes.CDLL(None)


class Failure(Exception):
    """Something that makes a row, or the whole run, fail; the text says what to do."""


def spawn(command, cpus, *, idle=False, **options):
    """Starts `command` on the processors `cpus`; it does not outlive us. With `idle` it gets what others on its processor leave."""
    def prepare():
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.sched_setaffinity(0, cpus)
        if idle:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))

    try:
        return subprocess.Popen([str(word) for word in command], preexec_fn=prepare, **options)
    except FileNotFoundError as error:
        raise Failure(f"there is no '{error.filename}' in PATH; to fix it: scripts/setup --bench") from error


def stop(process, number=signal.SIGTERM):
    """Ends a process that `spawn` started, at the latest by force."""
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


@dataclass
class Finished:
    """What a command said, and what it took."""

    output: str
    seconds: float
    cpu_seconds: float


def run(command, cpus, *, timeout=180, input=None, **options):
    """Runs `command` to its end; its output, wall time, and CPU time with its children's."""
    def used():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    cpu, begin = used(), time.monotonic()
    process = spawn(command, cpus, stdin=subprocess.PIPE if input is not None else subprocess.DEVNULL, stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE, **options)
    try:
        output, errors = process.communicate(input, timeout)
    except subprocess.TimeoutExpired as error:
        raise Failure(f"'{summary(command)}' did not end within {timeout} s") from error
    finally:
        stop(process, signal.SIGKILL)
    seconds = time.monotonic() - begin
    if process.returncode != 0:
        said = (errors + output).decode(errors="replace").strip()
        raise Failure(f"'{summary(command)}' ended with {process.returncode}: {said[-2000:]}")
    return Finished(output.decode(errors="replace"), seconds, used() - cpu)


def summary(command):
    """A command's program and first arguments, for messages."""
    return " ".join([os.path.basename(str(command[0])), *map(str, command[1:4])])


def await_text(process, path, pattern, what, seconds=READY_SECONDS):
    """Waits until `process` has written to the file `path` what `pattern` matches; returns the match."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := re.search(pattern, pathlib.Path(path).read_text(errors="replace")):
            return found
        if process.poll() is not None:
            raise Failure(f"{what} ended with {process.returncode}")
        time.sleep(0.02)
    raise Failure(f"{what} was not ready within {seconds} s")


def cpu_seconds(pid):
    """User and system time of a process so far, all its threads, to the nanosecond: the process's CPU clock (clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)


def resident_kib(pid, field="VmRSS"):
    """Resident memory of a process in KiB; `VmHWM` is the most that it ever had."""
    return int(re.search(rf"^{field}:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[1])


def thread_cpu_seconds(pid):
    """CPU time of each thread of a process: name and number, seconds."""
    times = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            name = (task / "comm").read_text().strip()
            times[f"{name} {task.name}"] = int((task / "schedstat").read_text().split()[0]) / 1e9
        except FileNotFoundError:
            continue
    return times


def spread_threads(pid, prefix, cpus):
    """Gives each thread of a process whose name begins with `prefix` one of the processors `cpus`, in turn."""
    tasks = sorted(pathlib.Path(f"/proc/{pid}/task").iterdir(), key=lambda task: int(task.name))
    chosen = [task for task in tasks if (task / "comm").read_text().startswith(prefix)]
    for number, task in enumerate(chosen):
        os.sched_setaffinity(int(task.name), {sorted(cpus)[number % len(cpus)]})


def busiest_thread_cpus(pid, prefix, seconds=0.3):
    """The processors of that thread of a process, among those whose names begin with `prefix`, which is the busiest just now."""
    before = thread_cpu_seconds(pid)
    time.sleep(seconds)
    used = {name: total - before.get(name, 0) for name, total in thread_cpu_seconds(pid).items() if name.startswith(prefix)}
    return os.sched_getaffinity(int(max(used, key=used.get).split()[-1]))


def move_group(group, cpus):
    """Gives every thread of a process group the processors `cpus`; who is started later inherits them."""
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(process.name)) == group:
                for task in (process / "task").iterdir():
                    os.sched_setaffinity(int(task.name), cpus)
        except (ProcessLookupError, FileNotFoundError):
            continue


def describe_stalls(cpus, seconds=2):
    """How often, and for how long, a thread that does nothing but look at the clock does not have its processor: others of the machine, or of
    its host, have it. A p99 of requests that come at a rate of their own is no better than that."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(cpus)[0]})
    gaps, begin = [], time.perf_counter_ns()
    last, end = begin, begin + int(seconds * 1e9)
    while last < end:
        now = time.perf_counter_ns()
        if now - last > STALL_NS:
            gaps.append(now - last)
        last = now
    os.sched_setaffinity(0, before)
    return (f"{len(gaps) / seconds:.1f} a second of over {STALL_NS / 1e6:g} ms, the longest {max(gaps, default=0) / 1e6:.1f} ms, "
            f"{sum(gaps) / (last - begin):.1%} of the time")


def settle(pid, limit=60):
    """Waits until a process has little left to do, such as the compaction of what was just written."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        before = cpu_seconds(pid)
        time.sleep(SETTLED_SECONDS)
        if cpu_seconds(pid) - before < SETTLED_SECONDS * SETTLED_SHARE:
            return


def synchronize_disks():
    """Writes back what is still in memory, so that it does not fall into what is measured next."""
    libc.sync()
