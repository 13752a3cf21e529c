#!/usr/bin/env python3
"""Raw probes of a WebSocket echo client over mutual TLS: we are the server, right and wrong.

For each probe the client is started anew with `wss://localhost:PORT/` as its last argument. It must answer the right close code, end with
close_notify, and exit 0; where there was no connection it must exit with something else.

usage: client_probes.py --trust ca.pem --certificate chain.pem --key key.pem -- CLIENT ARGUMENT…
"""

import argparse
import base64
import concurrent.futures
import hashlib
import re
import socket
import ssl
import subprocess
import sys

from wire import Wire, frame, frames_of

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
MIB = 1 << 20
DEADLINE = 120


def sent(*arguments, **fields):
    return frame(*arguments, mask=False, **fields)


def answer(key, **changes):
    """A right answer to the opening handshake, but for what `changes` says."""
    accept = base64.b64encode(hashlib.sha1(key + GUID).digest()).decode()
    fields = {"status": "101 Switching Protocols", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept, **changes}
    lines = [f"HTTP/1.1 {fields.pop('status')}"] + [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


CLOSE = sent(8, b"\x03\xe8")
CLOSED = (True, 8, b"\x03\xe8")

# name: (what follows the 101, the frames that must come back; a bare number is the close code of a breach)
SESSIONS = {
    "text, binary, empty": (sent(1, b"hello") + sent(2, b"\0\xff") + sent(1) + CLOSE, [(True, 1, b"hello"), (True, 2, b"\0\xff"), (True, 1, b""), CLOSED]),
    "16 MiB": (sent(2, b"ab" * (8 * MIB)) + CLOSE, [(True, 2, b"ab" * (8 * MIB)), CLOSED]),
    "65,536 fragments": (
        sent(1, b"a", final=False) + sent(0, b"a", final=False) * 65534 + sent(0, b"a") + CLOSE, [(True, 1, b"a" * 65536), CLOSED]),
    "pings between fragments": (sent(1, b"a", final=False) + sent(9, b"x") + sent(0, b"b") + CLOSE, [(True, 10, b"x"), (True, 1, b"ab"), CLOSED]),
    "an empty close": (sent(8), [CLOSED]),
    "nothing after the close": (CLOSE + sent(1, b"late") + sent(9), [CLOSED]),
    "a masked frame": (frame(1, b"hello"), 1002),
    "a reserved bit": (sent(1, b"hello", reserved=4), 1002),
    "a reserved opcode": (sent(3), 1002),
    "a length that is not minimal": (sent(2, b"a", length_bytes=8), 1002),
    "the highest bit of a length": (sent(2, b"", length_bytes=8, claimed=1 << 63), 1002),
    "63 bits of length": (sent(2, b"", length_bytes=8, claimed=(1 << 63) - 1), 1009),
    "a continuation of nothing": (sent(0, b"a"), 1002),
    "text that is no UTF-8": (sent(1, b"\xff"), 1007),
    "bad text in an endless frame": (sent(1, b"\xff" + b"a" * 50, claimed=MIB), 1007),
    "a close with code 1005": (sent(8, b"\x03\xed"), 1002),
    "a close of one byte": (sent(8, b"\x03"), 1002),
}

OPENINGS = {
    "404": {"status": "404 Not Found", "Content-Length": "0"},
    "200": {"status": "200 OK", "Content-Length": "0"},
    "503": {"status": "503 Service Unavailable", "Retry-After": "5", "Content-Length": "0"},
    "the accept of another key": {"Sec-WebSocket-Accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="},
    "no accept": {"Sec-WebSocket-Accept": None},
    "no Upgrade": {"Upgrade": None},
    "another Upgrade": {"Upgrade": "h2c"},
    "no Connection": {"Connection": None},
    "an extension": {"Sec-WebSocket-Extensions": "permessage-deflate"},
    "a subprotocol": {"Sec-WebSocket-Protocol": "chat"},
}


class Failure(Exception):
    pass


def expect(condition, message):
    if not condition:
        raise Failure(message)


class Conversation:
    """A client that was started, and our end of its connection."""

    def __init__(self, options, context):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(DEADLINE)
            url = f"wss://localhost:{listener.getsockname()[1]}/path?query"
            self.client = subprocess.Popen(options.client + [url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            accepted, _ = listener.accept()
        self.wire = Wire(accepted, context)
        expect(self.wire.read_until(lambda received: b"\r\n\r\n" in received), "no request")
        self.request = bytes(self.wire.received)
        self.wire.received.clear()

    def key(self):
        head = self.request.decode().split("\r\n")
        expect(head[0] == "GET /path?query HTTP/1.1", f"request line {head[0]}")
        fields = {}
        for line in head[1:-2]:
            name, value = line.split(": ", 1)
            expect(name.lower() not in fields, f"two {name}")
            fields[name.lower()] = value
        expect(re.fullmatch(r"localhost:\d+", fields.get("host", "")), "Host")
        expect(fields.get("upgrade", "").lower() == "websocket" and fields.get("connection", "").lower() == "upgrade", "Upgrade, Connection")
        expect(fields.get("sec-websocket-version") == "13", "version")
        key = fields.get("sec-websocket-key", "")
        expect(len(base64.b64decode(key, validate=True)) == 16, "key")
        return key.encode()

    def exit_status(self):
        try:
            return self.client.wait(DEADLINE)
        finally:
            self.client.kill()


def session(options, context, data, expected):
    conversation = Conversation(options, context)
    wire = conversation.wire
    # In one piece with the 101: what follows its head must not be lost.
    wire.send(answer(conversation.key()) + data)
    wire.read_to_end(DEADLINE)
    frames = frames_of(wire.received, from_client=True)
    if isinstance(expected, int):
        expect(len(frames) == 1 and frames[0][1] == 8, f"{len(frames)} frames instead of one close frame")
        code = int.from_bytes(frames[0][2][:2], "big")
        expect(code == expected, f"close code {code} instead of {expected}")
    else:
        expect(frames == expected, f"other answers than expected: {[(opcode, payload[:20]) for _, opcode, payload in frames]}")
    expect(wire.ending == "clean", f"ended {wire.ending}")
    wire.close()
    status = conversation.exit_status()
    expect(status == 0, f"exit status {status}")


def opening(options, context, changes):
    conversation = Conversation(options, context)
    conversation.wire.send(answer(conversation.key(), **changes) + sent(1, b"hello"))
    conversation.wire.read_to_end(DEADLINE)
    expect(not conversation.wire.received, "it spoke WebSocket")
    conversation.wire.close()
    expect(conversation.exit_status() != 0, "exit status 0")


def main():
    parser = argparse.ArgumentParser()
    for name in ("trust", "certificate", "key"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("client", nargs="+")
    options = parser.parse_args()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.certificate, options.key)
    context.load_verify_locations(options.trust)
    context.verify_mode = ssl.CERT_REQUIRED

    probes = {f"session: {name}": (session, arguments) for name, arguments in SESSIONS.items()}
    probes |= {f"opening: {name}": (opening, (changes,)) for name, changes in OPENINGS.items()}

    def run(item):
        name, (function, arguments) = item
        try:
            function(options, context, *arguments)
        except Exception as error:
            print(f"FAILED {name}: {type(error).__name__}: {error}", flush=True)
            return False
        return True

    with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
        passed = sum(pool.map(run, probes.items()))
    print(f"{passed} of {len(probes)} probes passed")
    return 0 if passed == len(probes) else 1


if __name__ == "__main__":
    sys.exit(main())
