"""Writes the symbol graphs of our modules: symbolgraphs.py MANIFEST DIRECTORY MODULE…

`swift package dump-symbol-graph` leaves out every declaration whose signature names a type of a module that is imported with
package access, and calls links to them dead. The compiler itself does not; so each module is compiled once more, as far as
its interface, with the very arguments of the build, which are in the build's manifest (.build/debug.yaml).
"""

import json
import os
import re
import subprocess
import sys

manifest, directory, modules = sys.argv[1], sys.argv[2], sys.argv[3:]
with open(manifest, encoding="utf-8") as file:
    text = file.read()

WITH_VALUE = {"-emit-module-path", "-output-file-map", "-index-store-path", "-num-threads"}
DROPPED = {"-c", "-incremental", "-emit-dependencies", "-enable-batch-mode", "-serialize-diagnostics", "-index-system-modules"}

for module in modules:
    block = re.search(r'"C\.%s-[^"]*debug\.module":\n(?:    .*\n)*?    args: (\[.*\])\n' % re.escape(module), text)
    if block is None:
        sys.exit(f"docs: {module} is not in {manifest}; to fix it: swift build --build-tests")
    arguments, kept = iter(json.loads(block.group(1))), []
    for argument in arguments:
        if argument in WITH_VALUE:
            next(arguments)
        elif argument not in DROPPED and not re.fullmatch(r"-j\d+", argument):
            kept.append(argument)
    output = os.path.join(directory, module)
    os.makedirs(output)
    kept += [
        "-emit-module-path", os.path.join(directory, module + ".swiftmodule"),
        "-emit-symbol-graph", "-emit-symbol-graph-dir", output,
        "-symbol-graph-minimum-access-level", "package", "-symbol-graph-skip-synthesized-members",
    ]
    done = subprocess.run(kept, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{done.stdout}\ndocs: {module} does not compile; to fix it: swift build")
