"""What was measured, as text and as one JSON document."""

import os
import pathlib
import platform
import re
import shutil
import subprocess

from measure import METRICS
from processes import SERVER_CPU, describe_stalls

VERSION_COMMANDS = {
    "redis": ["redis-server", "--version"], "nginx": ["/usr/sbin/nginx", "-v"], "etcd": ["etcd", "--version"],
    "openssl": ["openssl", "version"], "rocksdb": ["dpkg-query", "--show", "--showformat=${Version}", "librocksdb-dev"],
    "compiler": ["cc", "--version"]}


def machine(directory):
    """What it was measured on."""
    try:
        model = re.search(r"^model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)[1]
    except (OSError, TypeError):
        model = platform.machine()
    memory = int(re.search(r"^MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text(), re.MULTILINE)[1])
    return {"processors": os.cpu_count(), "model": model, "memory_mib": memory // 1024, "kernel": platform.release(),
            "file_system": said(["stat", "--file-system", "--format=%T", directory]), "stalls": describe_stalls(SERVER_CPU)}


def versions(binary):
    """Of everything that takes part; what is not installed is left out."""
    found = {"mwstorage": said([binary, "version"]).splitlines()[0]}
    if commit := said(["git", "-C", pathlib.Path(__file__).parent, "describe", "--always", "--dirty"]):
        found["commit"] = commit
    for name, command in VERSION_COMMANDS.items():
        if shutil.which(command[0]):
            found[name] = said(command).splitlines()[0]
    return found


def said(command):
    """What a command says, on either stream; nothing if it fails."""
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL)
    return done.stdout.strip() if done.returncode == 0 else ""


def number(value):
    """A number with as many digits as it is worth."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(values):
    """Median and range."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return number(median) if len(ordered) == 1 else f"{number(median)} ({number(ordered[0])} to {number(ordered[-1])})"


def text_of(result):
    """A row for the terminal."""
    lines = [f"{result.row.name}: {result.row.about}"]
    if result.failure:
        return "\n".join([*lines, f"    FAILED: {result.failure}"])
    if any("per_second" in sample for samples in result.series.values() for sample in samples):
        lines += load_table(result)
    else:
        lines += plain_table(result)
    for ours in result.series:
        if ours not in result.peers and result.peers:
            lines += ratio_lines(result, ours)
    lines += [f"    {note}" for note in result.notes]
    for budget, judged in result.verdicts():
        value = "" if judged["value"] is None else number(judged["value"]) + (" x " + budget.peer if budget.peer else "")
        lines.append(f"    -> {budget.ours}, {budget.metric}: {value} ({budget.describe()}): {judged['verdict'].upper()}")
    return "\n".join(lines)


def load_table(result):
    """Throughput, latency and cost of each contender."""
    lines = [f"    {'':<18}{'a second':<32}{'p50 / p99 / p99.9 us':<34}{'server CPU us':<28}{'MiB':>6}  generator CPU us (of a core)"]
    for name in result.series:
        percentiles = [result.median(name, metric) for metric in ("p50_us", "p99_us", "p999_us")]
        latency = " / ".join(number(value) if value else "-" for value in percentiles)
        generator = f"{number(result.median(name, 'generator_cpu_us'))} ({result.median(name, 'generator_cpu_share'):.0%})"
        lines.append(
            f"    {name:<18}{spread(result.values(name, 'per_second')):<32}{latency:<34}{spread(result.values(name, 'server_cpu_us')):<28}"
            f"{result.median(name, 'memory_kib') / 1024:>6.0f}  {generator}")
    return lines


def plain_table(result):
    """Each metric of each contender, where a row is not about requests."""
    lines = []
    for name, samples in result.series.items():
        metrics = dict.fromkeys(metric for sample in samples for metric in sample)
        lines.append(f"    {name:<24}" + "   ".join(f"{metric} {spread(result.values(name, metric))}" for metric in metrics))
    return lines


def ratio_lines(result, ours):
    """Ours against each peer."""
    metrics = [("server_cpu_us", "CPU"), ("per_second", "throughput"), ("p99_us", "p99")]
    lines = []
    for peer in result.peers:
        ratios = [f"{title} {result.ratio(ours, peer, metric):.2f}" for metric, title in metrics
                  if result.values(ours, metric) and any(result.values(peer, metric))]
        if ratios:
            lines.append(f"    {ours} / {peer}: {', '.join(ratios)}")
    return lines


def summary(results):
    """The budget, a line for each of its limits."""
    lines = [f"{'row':<22}{'ours':<18}{'metric':<22}{'value':>8}  {'peer':<16}{'aim, must':<36}verdict"]
    for result in results:
        if result.failure:
            lines.append(f"{result.row.name:<22}FAILED: {result.failure.splitlines()[0][:120]}")
            continue
        for budget, judged in result.verdicts():
            value = "-" if judged["value"] is None else number(judged["value"])
            lines.append(f"{result.row.name:<22}{budget.ours:<18}{budget.metric:<22}{value:>8}  {budget.peer or '-':<16}"
                         f"{budget.describe():<36}{judged['verdict']}")
    return "\n".join(lines)


def document(results, options, about_machine, about_versions):
    """Everything, with every round."""
    return {"machine": about_machine, "versions": about_versions, "rounds": options.rounds, "seconds": options.seconds,
            "rows": [row_document(result) for result in results]}


def row_document(result):
    series = {}
    for name, samples in result.series.items():
        metrics = dict.fromkeys([*METRICS, *(metric for sample in samples for metric in sample)])
        known = [metric for metric in metrics if result.values(name, metric)]
        series[name] = {
            "rounds": samples, "median": {metric: result.median(name, metric) for metric in known},
            "minimum": {metric: min(result.values(name, metric)) for metric in known},
            "maximum": {metric: max(result.values(name, metric)) for metric in known},
            "ratios": {peer: {metric: result.ratio(name, peer, metric) for metric in known if result.values(peer, metric)}
                       for peer in result.peers if name not in result.peers}}
    budgets = [
        {"ours": budget.ours, "metric": budget.metric, "peer": budget.peer or None, "aim": budget.aim, "must": budget.must,
         "at_least": budget.at_least, **judged} for budget, judged in result.verdicts()]
    return {"name": result.row.name, "about": result.row.about, "failure": result.failure or None, "series": series,
            "budgets": budgets, "notes": result.notes}
