"""The plot for the README: throughput and latency of gets against connections and requests in flight, ours and Redis; SVG by hand."""

import math
from xml.sax.saxutils import escape

from measure import Row
from processes import Failure

CONNECTIONS = [1, 2, 4, 8, 16, 32, 64, 128, 256]
IN_FLIGHT = [1, 2, 4, 8, 16, 32, 64]
FIXED_CONNECTIONS = 16
KEYS = 10_000

WIDTH, HEIGHT = 900, 660
PANEL_WIDTH, PANEL_HEIGHT = 360, 220
LEFT, TOP, COLUMN, LINE = 70, 104, 440, 290
SERIES = {"native": ("MWStorage", "ours"), "redis": ("Redis", "redis")}
STYLE = """
  .page { fill: #ffffff } text { fill: #1f2328; font: 12px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif }
  .title { font-size: 15px; font-weight: 600 } .panel { font-weight: 600 } .quiet { fill: #59636e }
  .grid { stroke: #d1d9e0; stroke-width: 1; fill: none } .axis { stroke: #59636e; stroke-width: 1; fill: none }
  .line { fill: none; stroke-width: 2.25; stroke-linejoin: round; stroke-linecap: round } .tail { stroke-dasharray: 2 5 }
  .ours { stroke: #0b6bcb } .redis { stroke: #c2410c } .dot { stroke: none }
  .dot.ours, .label.ours { fill: #0b6bcb; stroke: none } .dot.redis, .label.redis { fill: #c2410c; stroke: none }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } text { fill: #f0f6fc } .quiet { fill: #9198a1 } .grid { stroke: #2a313c } .axis { stroke: #9198a1 }
    .ours { stroke: #58a6ff } .redis { stroke: #ff9d5c }
    .dot.ours, .label.ours { fill: #58a6ff } .dot.redis, .label.redis { fill: #ff9d5c }
  }
"""


def measure(bench, note):
    """The points: {"connections": {series: [(x, a second, p50, p99)]}, "in flight": …}."""
    points = {"connections": {name: [] for name in SERIES}, "in flight": {name: [] for name in SERIES}}
    with bench.stack:
        ours, redis = bench.ours(), bench.redis()
        bench.load(ours, "fill", keys=KEYS).fill()
        redis.fill(KEYS, 1024)
        shapes = [("connections", count, count, 1) for count in CONNECTIONS]
        shapes += [("in flight", count, FIXED_CONNECTIONS, count) for count in IN_FLIGHT]
        for axis, x, connections, in_flight in shapes:
            row = Row(f"{connections}x{in_flight}", "")
            result = bench.compare(row, {
                "native": bench.our_contender(ours, "get", connections, in_flight, keys=KEYS),
                "redis": bench.redis_contender(redis, ["-t", "get"], connections, in_flight, keys=KEYS)})
            if result.failure:
                raise Failure(result.failure)
            for name in SERIES:
                values = [result.median(name, metric) for metric in ("per_second", "p50_us", "p99_us")]
                points[axis][name].append((x, *values))
                note(f"{row.name} {name}: {values[0]:,.0f}/s, p50 {values[1]:,.0f} us, p99 {values[2]:,.0f} us")
    return points


def draw(points):
    """The picture."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">',
        "<title>Gets of 1 KiB: throughput and latency of MWStorage and Redis, both with mutual TLS</title>",
        f"<style>{STYLE}</style>", f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="6"/>',
        text(LEFT, 30, "GET of 1 KiB with mutual TLS, one processor for the server", "title"), *legend()]
    titles = {"connections": "connections, 1 request in flight on each",
              "in flight": f"requests in flight on each of {FIXED_CONNECTIONS} connections"}
    for column, axis in enumerate(points):
        x = LEFT + column * COLUMN
        throughput = {name: {"": [(at, rate) for at, rate, _, _ in line]} for name, line in points[axis].items()}
        latency = {name: {"": [(at, p50) for at, _, p50, _ in line], "tail": [(at, p99) for at, _, _, p99 in line]}
                   for name, line in points[axis].items()}
        parts += panel(x, TOP, "requests a second", titles[axis], throughput, LinearScale)
        parts += panel(x, TOP + LINE, "latency in us, p50 and p99", titles[axis], latency, LogarithmicScale)
    return "\n".join([*parts, "</svg>", ""])


def legend():
    x, parts = LEFT, []
    for name, (title, style) in SERIES.items():
        parts += [f'<path class="line {style}" d="M{x} 54h26"/>', text(x + 33, 58, title)]
        x += 130
    parts += [f'<path class="line axis" d="M{x} 54h26"/>', text(x + 33, 58, "p50, or throughput")]
    x += 170
    return [*parts, f'<path class="line axis tail" d="M{x} 54h26"/>', text(x + 33, 58, "p99")]


class LinearScale:
    """From 0 to a round number above the largest value."""

    def __init__(self, values):
        most = max(values)
        step = 10 ** math.floor(math.log10(most))
        self.step = next(step * part for part in (0.2, 0.25, 0.5, 1, 2) if most / (step * part) <= 5)
        self.top = self.step * math.ceil(most / self.step)

    def share(self, value):
        return value / self.top

    def ticks(self):
        return [index * self.step for index in range(round(self.top / self.step) + 1)]


class LogarithmicScale:
    """Whole decades around the values."""

    def __init__(self, values):
        positive = [value for value in values if value > 0]
        self.bottom = math.floor(math.log10(min(positive)))
        self.top = max(math.ceil(math.log10(max(positive))), self.bottom + 1)

    def share(self, value):
        return (math.log10(max(value, 10 ** self.bottom)) - self.bottom) / (self.top - self.bottom)

    def ticks(self):
        return [10 ** power for power in range(self.bottom, self.top + 1)]


def panel(x, y, title, below, lines, make_scale):
    """One diagram: the steps of the horizontal axis are doublings."""
    values = [value for styles in lines.values() for line in styles.values() for _, value in line]
    scale = make_scale(values)
    places = [at for at, _ in next(iter(lines.values()))[""]]
    parts = [text(x, y - 10, title, "panel"), text(x + PANEL_WIDTH / 2, y + PANEL_HEIGHT + 36, below, "quiet", "middle")]
    for tick in scale.ticks():
        height = y + PANEL_HEIGHT * (1 - scale.share(tick))
        parts += [f'<path class="grid" d="M{x} {height:.1f}h{PANEL_WIDTH}"/>', text(x - 8, height + 4, short(tick), "quiet", "end")]

    def across(at):
        return x + 12 + (PANEL_WIDTH - 24) * places.index(at) / (len(places) - 1)

    parts.append(f'<path class="axis" d="M{x} {y + PANEL_HEIGHT}h{PANEL_WIDTH}"/>')
    parts += [text(across(at), y + PANEL_HEIGHT + 17, str(at), "quiet", "middle") for at in places]
    for name, styles in lines.items():
        for style, line in styles.items():
            where = [(across(at), y + PANEL_HEIGHT * (1 - scale.share(value))) for at, value in line]
            path = "L".join(f"{px:.1f} {py:.1f}" for px, py in where)
            parts.append(f'<path class="line {SERIES[name][1]} {style}" d="M{path}"/>')
            parts += [f'<circle class="dot {SERIES[name][1]}" cx="{px:.1f}" cy="{py:.1f}" r="{2.2 if style else 3}"/>' for px, py in where]
    return parts


def short(value):
    """A number as a label: 200k."""
    if value >= 1_000_000:
        return f"{value / 1_000_000:g}M"
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def text(x, y, content, style="", anchor="start"):
    place = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}"{place}>{escape(content)}</text>'
