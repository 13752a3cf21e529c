"""Compares `swift package describe --type json` on standard input with the table of allowed edges."""

import json
import sys

with open(sys.argv[1]) as file:
    table = json.load(file)

try:
    package = json.load(sys.stdin)
except json.JSONDecodeError:
    sys.exit("layering: the manifest cannot be read; to fix it: swift package describe (its error is the reason)")

problems = []
seen = set()
for target in package["targets"]:
    name = target["name"]
    if target["type"] == "test":
        continue  # a test may use what it tests and what the tests share
    if not target["path"].startswith("Sources/"):
        continue
    seen.add(name)
    used = set(target.get("target_dependencies") or []) | set(target.get("product_dependencies") or [])
    allowed = table.get(name)
    if allowed is None:
        problems.append(f"{name} is not in the table; add it with what it may use")
        continue
    for other in sorted(used - set(allowed)):
        problems.append(f"{name} may not use {other}; remove the dependency (arrows point down, siblings never meet)")
    for other in sorted(set(allowed) - used):
        problems.append(f"{name} does not use {other}; remove that edge from the table")
# The fixture has a few targets only; a whole package must have all of the table.
if package["name"] == "mwstorage":
    for name in sorted(set(table) - seen):
        problems.append(f"{name} is in the table and not in the package; remove it from the table")

for problem in problems:
    print(f"layering: {problem} (scripts/layering.json)", file=sys.stderr)
sys.exit(1 if problems else 0)
