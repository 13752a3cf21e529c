"""Counts what requests cost under callgrind, and compares that with what is committed. See the script `instructions`."""

import argparse
import collections
import concurrent.futures
import json
import os
import platform
import re
import subprocess
import sys
import tempfile

# In percent: what another layout of the same code may cost.
TOLERANCE = 3.0
# A figure so much better is worth being committed, so that it cannot be lost again unseen; in percent.
WORTH_UPDATING = 3.0
# Requests of a sequence, unless it says otherwise below: enough that what happens once in a while is a small part.
REQUESTS = 512
REQUESTS_OF = {
    "mwdb-get-64k-tls": 32, "mwdb-put-64k-tls": 32, "native-scan-100": 32, "watch-50": 64, "tls-open-16k": 128, "tls-seal-16k": 128,
}
# A sequence takes seconds.
TIMEOUT_SECONDS = 300
# How libc's call each other.
ALLOCATOR_INSIDES = ("_mid_memalign", "_int_")
# What stands in front of them, in the profile left out of who calls them.
ALLOCATOR_FRONTS = {"swift_slowAlloc", "swift_slowAllocTyped", "swift_allocObject", "CRYPTO_malloc", "CRYPTO_zalloc", "CRYPTO_realloc"}
# In bytes: callgrind counts each byte of a `rep movsb` as an instruction, and a large copy would outweigh everything else.
NEVER = 1 << 30
ALLOCATORS = {"malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc", "memalign"}
# Mangled: of Swift's library, and NIO's buffers; what calls these wanted the memory.
SWIFT_FRONTS = ("$ss", "$sS", "$s7NIOCore10ByteBuffer", "$s7NIOCore19ByteBuffer")
FRONTS_DEPTH = 8
PROFILE_ROWS = 30
# Allocations a request that are none: a table that grew once.
ALLOCATION_SLACK = 0.01


def first_line(*command):
    try:
        output = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout
    except FileNotFoundError:
        return "none"
    return output.strip().splitlines()[0] if output.strip() else "none"


def cpu():
    """callgrind shows every program the same processor, but for what it cannot emulate without the real one."""
    try:
        with open("/proc/cpuinfo") as file:
            flags = set(re.search(r"^flags\s*:(.*)$", file.read(), re.MULTILINE).group(1).split())
    except (OSError, AttributeError):
        flags = set()
    wanted = ("sse4_2", "aes", "pclmulqdq", "avx", "avx2", "bmi2", "f16c", "rdrand", "rdseed")
    return " ".join([platform.machine()] + [flag for flag in wanted if flag in flags])


def environment():
    swift = re.search(r"Swift version (\S+)", first_line("swift", "--version"))
    openssl = re.search(r"^OpenSSL (\S+)", first_line("openssl", "version"))
    return {
        "swift": swift.group(1) if swift else "unknown",
        "libc": " ".join(platform.libc_ver()),
        "openssl": openssl.group(1) if openssl else "unknown",
        "valgrind": first_line("valgrind", "--version").removeprefix("valgrind-"),
        "cpu": cpu(),
    }


class Profile:
    """What a file of callgrind's says: instructions of each function itself, and who called whom how often."""

    def __init__(self, path):
        self.instructions = 0
        self.functions = collections.Counter()
        self.calls = collections.Counter()
        names = {}
        objects = {}
        function = callee = None
        own_object = called_object = ""
        is_call = False

        def take(text, known):
            number, _, name = text.strip().partition(" ")
            if name:
                known[number] = name
            return known[number]

        with open(path, errors="replace") as file:
            for line in file:
                key, _, text = line.partition("=")
                if key == "ob":
                    own_object = os.path.basename(take(text, objects))
                elif key == "cob":
                    called_object = os.path.basename(take(text, objects))
                elif key == "fn":
                    function = self.named(take(text, names), own_object)
                elif key == "cfn":
                    callee = self.named(take(text, names), called_object or own_object)
                    called_object = ""
                elif line.startswith("calls="):
                    self.calls[function, callee] += int(line[len("calls="):].split()[0])
                    is_call = True
                elif line.startswith("totals:"):
                    self.instructions = int(line.split()[1])
                elif line[0].isdigit() or line[0] in "+-*":
                    # The line behind a call is what that cost.
                    if not is_call:
                        self.functions[function] += int(line.split()[1])
                    is_call = False

    @staticmethod
    def named(name, where):
        # Libraries come without the names of what they do not export.
        return f"{name} in {where}" if name.startswith("0x") else name

    @staticmethod
    def is_inside(caller):
        # Without a name where libc's own symbols are not installed.
        return caller.startswith(ALLOCATOR_INSIDES) or caller.endswith(" in libc.so.6")

    @property
    def allocations(self):
        return sum(
            count for (caller, callee), count in self.calls.items()
            if callee in ALLOCATORS and caller not in ALLOCATORS and not self.is_inside(caller))

    def allocation_callers(self):
        """Allocations by the function that wanted them: what stands in between passes them on to its callers, by how often each called."""
        callers_of = collections.defaultdict(list)
        for (caller, callee), count in self.calls.items():
            callers_of[callee].append((caller, count))
        found = collections.Counter()
        to_share = {name: None for name in ALLOCATORS if name in callers_of}
        for _ in range(FRONTS_DEPTH):
            shared = collections.Counter()
            for name, amount in to_share.items():
                callers = [(caller, count) for caller, count in callers_of[name] if not self.is_inside(caller)]
                total = sum(count for _, count in callers)
                for caller, count in callers:
                    if caller in ALLOCATORS:
                        continue
                    part = count if amount is None else amount * count / total
                    is_front = caller in ALLOCATOR_FRONTS or caller.startswith(SWIFT_FRONTS) or caller.endswith(" in ???")
                    (shared if is_front and callers_of[caller] else found)[caller] += part
            to_share = shared
        return found + to_share


def check_itself():
    """What must fail does, or this checks nothing."""
    was = {"instructions": 1000, "allocations": 1.0}
    cases = [
        ((1029, 1.0), (True, True), False), ((1031, 1.0), (True, True), True), ((1031, 1.0), (False, True), False),
        ((900, 1.0), (True, True), False), ((1000, 1.25), (True, True), True), ((1000, 1.25), (False, True), True),
        ((1000, 1.25), (False, False), False), ((1000, 0.0), (True, True), False),
    ]
    for (instructions, allocations), judged, is_bad in cases:
        found, text = judge(was, {"instructions": instructions, "allocations": allocations}, *judged)
        if found != is_bad:
            sys.exit(f"instructions: {instructions} and {allocations} are judged '{text}': the check checks nothing; mend judge()")


def demangled(names):
    try:
        lines = subprocess.run(
            ["swift", "demangle", "--simplified"], input="\n".join(names), stdout=subprocess.PIPE, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        return names
    return lines.splitlines()


def print_profile(name, figures):
    """The dearest functions, and who allocates: each for one request."""
    profile, requests = figures["profile"], figures["requests"]
    for title, counter in (("instructions", profile.functions), ("allocations", profile.allocation_callers())):
        rows = counter.most_common(PROFILE_ROWS)
        print(f"\n{name}: {title} of a request")
        for (_, number), text in zip(rows, demangled([function for function, _ in rows])):
            print(f"{number / requests:>12,.2f}  {text[:150]}")


def count(binary, name, directory):
    requests = REQUESTS_OF.get(name, REQUESTS)
    path = os.path.join(directory, name + ".callgrind")
    # Nothing that differs from one shell to the next: the environment lies on the stack, and a locale costs.
    variables = {
        "SWIFT_DETERMINISTIC_HASHING": "1", "PATH": os.environ["PATH"], "TMPDIR": directory, "LC_ALL": "C",
        "GLIBC_TUNABLES": f"glibc.cpu.x86_rep_movsb_threshold={NEVER}:glibc.cpu.x86_rep_stosb_threshold={NEVER}",
    }
    command = [
        "valgrind", "--tool=callgrind", "--zero-before=*measuredPart*", "--dump-before=*countingEnded*", f"--callgrind-out-file={path}",
        binary, name, str(requests),
    ]
    run = subprocess.run(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT_SECONDS, check=False)
    said = re.search(r"requests=(\d+)", run.stdout)
    if run.returncode != 0 or not said:
        sys.exit(f"instructions: {name} failed:\n{run.stdout}{run.stderr}  to see it: {' '.join(command)}")
    # The first dump is what lies between the two; the file without a number is what came after.
    if not os.path.exists(path + ".1"):
        sys.exit(f"instructions: callgrind did not see countingEnded in {name}; to fix it: it must not be inlined, nor stripped")
    os.replace(path + ".1", path)
    profile = Profile(path)
    done = int(said.group(1))
    return {
        "instructions": round(profile.instructions / done), "allocations": round(profile.allocations / done, 3),
        "requests": done, "profile": profile,
    }


def judge(was, now, judges_instructions, judges_allocations):
    """What is to be said about a sequence: (is it bad, text)."""
    change = 100.0 * (now["instructions"] / was["instructions"] - 1)
    bad = []
    notes = []
    if change > TOLERANCE:
        (bad if judges_instructions else notes).append(f"{change:+.1f} % instructions")
    elif change < -WORTH_UPDATING:
        notes.append("better: commit the new figure")
    if now["allocations"] > was["allocations"] + ALLOCATION_SLACK:
        (bad if judges_allocations else notes).append(f"{now['allocations'] - was['allocations']:+.2f} allocations")
    elif now["allocations"] < was["allocations"] - ALLOCATION_SLACK:
        notes.append("fewer allocations: commit the new figure")
    return bool(bad), "; ".join([f"WORSE: {text}" for text in bad] + notes)


def main():
    check_itself()
    parser = argparse.ArgumentParser(prog="scripts/checks/instructions")
    parser.add_argument("binary", help=argparse.SUPPRESS)
    parser.add_argument("committed", help=argparse.SUPPRESS)
    parser.add_argument("--update", action="store_true", help="write the figures into instructions.json")
    parser.add_argument("--keep", metavar="DIRECTORY", help="leave callgrind's files there")
    parser.add_argument("--profile", action="store_true", help="print the dearest functions, and who allocates")
    parser.add_argument("sequences", nargs="*", metavar="SEQUENCE")
    arguments = parser.parse_intermixed_args()

    names = subprocess.run([arguments.binary, "list"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    unknown = [name for name in arguments.sequences if name not in names]
    if unknown:
        sys.exit(f"instructions: there is no sequence {' '.join(unknown)}; there are: {' '.join(names)}")
    chosen = arguments.sequences or names

    here = environment()
    try:
        with open(arguments.committed) as file:
            committed = json.load(file)
    except FileNotFoundError:
        committed = {"taken_with": here, "sequences": {}}

    with tempfile.TemporaryDirectory() as scratch:
        directory = os.path.abspath(arguments.keep) if arguments.keep else scratch
        os.makedirs(directory, exist_ok=True)
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            figures = dict(zip(chosen, pool.map(lambda name: count(arguments.binary, name, directory), chosen)))

    differing = [name for name in here if here[name] != committed["taken_with"].get(name)]

    def judged(name):
        """Which of a sequence's figures mean something here: (instructions, allocations). Only who encrypts depends on OpenSSL."""
        matters = [part for part in differing if part != "openssl" or "tls" in name]
        return not matters, not {"swift", "openssl"}.intersection(matters)

    failed = False
    print(f"{'a request of':<18} {'instructions':>12} {'committed':>12} {'change':>8}  {'allocations':>11} {'committed':>9}")
    for name in chosen:
        now, was = figures[name], committed["sequences"].get(name)
        if was is None:
            failed = failed or not arguments.update
            print(f"{name:<18} {now['instructions']:>12,} {'none':>12} {'':>8}  {now['allocations']:>11.2f} {'none':>9}  commit its figure")
            continue
        is_bad, text = judge(was, now, *judged(name))
        failed = failed or is_bad
        change = 100.0 * (now["instructions"] / was["instructions"] - 1)
        print(
            f"{name:<18} {now['instructions']:>12,} {was['instructions']:>12,} {change:>+6.1f} %  {now['allocations']:>11.2f}"
            f" {was['allocations']:>9.2f}  {text}".rstrip())
    if arguments.profile:
        for name in chosen:
            print_profile(name, figures[name])
    for name in sorted(set(committed["sequences"]) - set(names)):
        failed = failed or not arguments.update
        print(f"instructions: {name} is in instructions.json and is no sequence any more; to fix it: --update", file=sys.stderr)

    if arguments.update:
        if differing and arguments.sequences:
            sys.exit("instructions: the committed figures are of another machine; to fix it: --update all of them, without names")
        kept = {name: committed["sequences"].get(name) for name in names if name in committed["sequences"]}
        kept.update((name, {key: now[key] for key in ("instructions", "allocations")}) for name, now in figures.items())
        with open(arguments.committed, "w") as file:
            lines = [f'    "{name}": {json.dumps(kept[name])}' for name in names if name in kept]
            taken = json.dumps(here, indent=4).replace("\n}", "\n  }")
            file.write('{\n  "taken_with": ' + taken + ',\n  "sequences": {\n' + ",\n".join(lines) + "\n  }\n}\n")
        print(f"instructions: {arguments.committed} is written: commit it")
        return 0
    if differing:
        print("instructions: NOT ALL IS JUDGED HERE: the committed figures were taken with", file=sys.stderr)
        for name in differing:
            print(f"instructions:   {name} {committed['taken_with'].get(name)}, and this is {here[name]}", file=sys.stderr)
        for title, index in (("instructions", 0), ("allocations", 1)):
            unjudged = [name for name in chosen if not judged(name)[index]]
            if unjudged:
                print(f"instructions: only shown are the {title} of {' '.join(unjudged)}", file=sys.stderr)
        print("instructions: where CI runs now, take them anew: scripts/checks/instructions --update", file=sys.stderr)
    if failed:
        print(
            "instructions: a request costs more than it did; to fix it: see where, with --keep DIRECTORY and callgrind_annotate, or, if"
            " that is its price, scripts/checks/instructions --update", file=sys.stderr)
    return 1 if failed else 0


sys.exit(main())
