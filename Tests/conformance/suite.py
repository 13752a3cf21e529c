#!/usr/bin/env python3
"""Runs the public conformance suite (autobahntestsuite) against mwstorage-echo, as server and as client, over mutual TLS.

The suite speaks no client certificates: a bridge puts them on. It needs Python 2.7 (`pip install autobahntestsuite==0.8.2`), so it is no
part of scripts/test. Fails unless every case of both runs is OK or informational.

usage: suite.py ECHO WSTEST [WORD…]      the built mwstorage-echo, and how to start wstest, for example
       suite.py .build/debug/mwstorage-echo ~/suite/bin/wstest
"""

import asyncio
import collections
import json
import pathlib
import re
import socket
import ssl
import subprocess
import sys
import tempfile

CHUNK = 1 << 16
# Compression is never negotiated.
EXCLUDED = ["12.*", "13.*"]


def openssl(*arguments, text=None):
    subprocess.run(["openssl", *map(str, arguments)], input=text, text=True, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def make_certificates(folder):
    """`ca.pem`, and `NAME.pem` with `NAME.key` for server and client."""
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *new_key, "-keyout", folder / "ca.key", "-out", folder / "ca.pem", "-days", 2, "-subj", "/CN=suite",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
    for name, purpose in (("server", "serverAuth\nsubjectAltName=DNS:localhost"), ("client", "clientAuth")):
        openssl("req", "-new", *new_key, "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.csr", "-subj", f"/CN={name}")
        (folder / f"{name}.key").chmod(0o600)
        (folder / "extensions").write_text(
            f"extendedKeyUsage={purpose}\nkeyUsage=critical,digitalSignature\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")
        openssl("x509", "-req", "-in", folder / f"{name}.csr", "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key", "-CAcreateserial",
                "-days", 1, "-extfile", folder / "extensions", "-out", folder / f"{name}.pem")


def context(folder, name):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if name == "server" else ssl.PROTOCOL_TLS_CLIENT)
    tls.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    tls.load_verify_locations(folder / "ca.pem")
    tls.verify_mode = ssl.CERT_REQUIRED
    return tls


async def bridge(listen_tls, connect, change=lambda data: data):
    """A server whose every connection is joined to what `connect` opens; returns its port. `change` may alter what comes in first."""
    async def pump(reader, writer, change=lambda data: data):
        try:
            while data := await reader.read(CHUNK):
                writer.write(change(data))
                change = lambda data: data
                await writer.drain()
        except (ConnectionError, ssl.SSLError):
            pass
        writer.close()

    async def serve(reader, writer):
        there_reader, there_writer = await connect()
        await asyncio.gather(pump(reader, there_writer, change), pump(there_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=listen_tls)
    return server.sockets[0].getsockname()[1]


def judge(title, report):
    (cases,) = json.loads((report / "index.json").read_text()).values()
    counts = collections.Counter(case["behavior"] for case in cases.values())
    good = {"OK", "INFORMATIONAL"}
    bad = [name for name, case in cases.items() if not {case["behavior"], case["behaviorClose"]} <= good]
    print(f"{title}: {len(cases)} cases, {dict(counts)}", "" if not bad else f"FAILED: {', '.join(bad)}", flush=True)
    return bool(cases) and not bad


async def run(*command, **options):
    process = await asyncio.create_subprocess_exec(*map(str, command), **options)
    return await process.wait()


def specification(folder, name, report, **fields):
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"outdir": str(report), "cases": ["*"], "exclude-cases": EXCLUDED, "exclude-agent-cases": {}, **fields}))
    return path


async def judge_server(folder, echo, suite, options):
    process = await asyncio.create_subprocess_exec(echo, "serve", *options("server"), stdout=subprocess.PIPE)
    try:
        port = int((await process.stdout.readline()).decode().rsplit(":", 1)[1])
        tls = context(folder, "client")
        plain = await bridge(None, lambda: asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname="localhost"))
        report = folder / "server-report"
        servers = [{"agent": "echo", "url": f"ws://127.0.0.1:{plain}"}]
        await run(*suite, "-m", "fuzzingclient", "-s", specification(folder, "server", report, servers=servers), stdout=subprocess.DEVNULL)
        return judge("server", report)
    finally:
        process.terminate()
        await process.wait()


async def judge_client(folder, echo, suite, options):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        plain = unused.getsockname()[1]
    report = folder / "client-report"
    path = specification(folder, "client", report, url=f"ws://127.0.0.1:{plain}")
    process = await asyncio.create_subprocess_exec(*suite, "-m", "fuzzingserver", "-s", path, "-u", "0", stdout=subprocess.PIPE, limit=1 << 20)
    try:
        while not (match := re.search(rb"will run (\d+) test cases", await process.stdout.readline())):
            pass
        count = int(match.group(1))
        # The suite wants its own port in the Host header.
        port = await bridge(
            context(folder, "server"), lambda: asyncio.open_connection("127.0.0.1", plain),
            lambda data: data.replace(f"localhost:{port}".encode(), f"localhost:{plain}".encode()))
        for case in range(1, count + 1):
            status = await run(echo, "connect", f"wss://localhost:{port}/runCase?case={case}&agent=echo", *options("client"))
            if status != 0:
                print(f"client: case number {case}: exit status {status}")
        await run(echo, "connect", f"wss://localhost:{port}/updateReports?agent=echo", *options("client"))
        return judge("client", report)
    finally:
        process.terminate()
        await process.wait()


async def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    echo, suite = sys.argv[1], sys.argv[2:]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        make_certificates(folder)

        def options(end):
            return ["--certificate", folder / f"{end}.pem", "--key", folder / f"{end}.key", "--trust", folder / "ca.pem"]

        results = [await judge_end(folder, echo, suite, options) for judge_end in (judge_server, judge_client)]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
