#!/usr/bin/env python3
"""Raw probes of a WebSocket echo server over mutual TLS: broken opening handshakes, broken frames, floods, rude endings.

The server must say the right HTTP status or close code, then TLS close_notify, then the end of the TCP stream: anything else is a failure.
It needs nothing but Python's standard library.

usage: probes.py --port N --trust ca.pem --certificate chain.pem --key key.pem [--pid SERVER] [--tls 1.2|1.3] [--idle] [NAME…]
"""

import argparse
import concurrent.futures
import re
import socket
import ssl
import sys
import threading
import time

from wire import Wire, frame, frames_of

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
HEADERS = {
    "Host": "localhost", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": KEY, "Sec-WebSocket-Version": "13",
}
MIB = 1 << 20

PROBES = {}
options = None
context = None


class Failure(Exception):
    pass


def expect(condition, message):
    if not condition:
        raise Failure(message)


def probe(name):
    def register(function):
        PROBES[name] = function
        return function
    return register


# --- Opening handshakes


def request(line="GET /any HTTP/1.1", without=(), extra=(), **replaced):
    fields = {**HEADERS, **{name.replace("_", "-"): value for name, value in replaced.items()}}
    lines = [line] + [f"{name}: {value}" for name, value in fields.items() if name not in without] + list(extra)
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def connect():
    return Wire(socket.create_connection(("127.0.0.1", options.port)), context, server_name="localhost")


def opened():
    """A connection after a good opening handshake."""
    wire = connect()
    wire.send(request())
    expect(wire.read_until(lambda received: b"\r\n\r\n" in received), f"no answer to a good request: {bytes(wire.received)!r}")
    head, rest = bytes(wire.received).split(b"\r\n\r\n", 1)
    expect(head.startswith(b"HTTP/1.1 101 ") and ACCEPT.encode() in head, f"a good request was refused: {head!r}")
    wire.received = bytearray(rest)
    return wire


OPENINGS = {
    "POST": (request("POST / HTTP/1.1"), 405),
    "HEAD": (request("HEAD / HTTP/1.1"), 405),
    "an unknown method": (request("BREW / HTTP/1.1"), (400, 405)),
    "HTTP/1.0": (request("GET / HTTP/1.0"), 400),
    "HTTP/3.7": (request("GET / HTTP/3.7"), 400),
    "no Host": (request(without=["Host"]), 400),
    "two Hosts": (request(extra=["Host: localhost"]), 400),
    "no Upgrade": (request(without=["Upgrade"]), 426),
    "another Upgrade": (request(Upgrade="h2c"), 426),
    "no Connection": (request(without=["Connection"]), 400),
    "Connection: close": (request(Connection="close"), 400),
    "Connection: close, Upgrade": (request(Connection="close, Upgrade"), 400),
    "no key": (request(without=["Sec-WebSocket-Key"]), 400),
    "an empty key": (request(Sec_WebSocket_Key=""), 400),
    "a short key": (request(Sec_WebSocket_Key="AAAA"), 400),
    "a key that is no base 64": (request(Sec_WebSocket_Key="!" * 24), 400),
    "two keys": (request(extra=[f"Sec-WebSocket-Key: {KEY}"]), 400),
    "no version": (request(without=["Sec-WebSocket-Version"]), 426),
    "version 8": (request(Sec_WebSocket_Version="8"), 426),
    "version 99": (request(Sec_WebSocket_Version="99"), 426),
    "a body": (request(extra=["Content-Length: 5"]) + b"hello", 400),
    "a chunked body": (request(extra=["Transfer-Encoding: chunked"]) + b"0\r\n\r\n", 400),
    "two lengths": (request(extra=["Content-Length: 5", "Content-Length: 6"]), 400),
    "a header of 20 KiB": (request(extra=["X: " + "a" * 20_000]), 431),
    "headers of 20 KiB": (request(extra=[f"X-{number}: " + "a" * 100 for number in range(200)]), 431),
    "an endless request line": (b"GET /" + b"a" * 40_000, 431),
    "a NUL in a header": (request(extra=["X: a\0b"]), 400),
    "a header without a colon": (request(extra=["nonsense"]), 400),
    "a space before the colon": (request(extra=["X : y"]), 400),
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "a frame instead of a request": (frame(1, b"hello") + b"\r\n\r\n", 400),
}


def opening(data, statuses):
    def run():
        wire = connect()
        wire.send(data)
        ending = wire.read_to_end()
        answer = bytes(wire.received)
        match = re.match(rb"HTTP/1\.1 (\d{3}) [^\r\n]+\r\n", answer)
        expect(match, f"no HTTP answer: {answer[:200]!r}, ended {ending}")
        status = int(match.group(1))
        expect(status in (statuses if isinstance(statuses, tuple) else (statuses,)), f"status {status}")
        head, _, body = answer.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        expect(b"close" in fields.get(b"connection", b""), "no Connection: close")
        expect(int(fields.get(b"content-length", b"-1")) == len(body) > 0, "no body that says what to do")
        if status == 426:
            expect(fields.get(b"sec-websocket-version") == b"13", "426 without Sec-WebSocket-Version: 13")
        if status == 405:
            expect(fields.get(b"allow") == b"get", "405 without Allow: GET")
        expect(ending == "clean", f"ended {ending}")
    return run


for name, (data, statuses) in OPENINGS.items():
    PROBES[f"opening: {name}"] = opening(data, statuses)


@probe("opening: byte by byte")
def opening_byte_by_byte():
    wire = connect()
    for byte in request():
        wire.send(bytes([byte]))
    expect(wire.read_until(lambda received: b"\r\n\r\n" in received), "no answer")
    wire.received.clear()
    finish(wire)


@probe("opening: frames right behind the request")
def opening_with_frames():
    wire = connect()
    wire.send(request() + frame(1, b"early") + frame(8, b"\x03\xe8"))
    expect(wire.read_to_end() == "clean", f"ended {wire.ending}")
    head, rest = bytes(wire.received).split(b"\r\n\r\n", 1)
    expect(frames_of(rest) == [(True, 1, b"early"), (True, 8, b"\x03\xe8")], f"{frames_of(rest)}")


@probe("opening: capitals, spaces and lists in headers")
def opening_capitals():
    wire = connect()
    extra = ["Origin: https://example.com", "Sec-WebSocket-Protocol: a, b"]
    wire.send(request(Upgrade="foo, WEBSOCKET", Connection="keep-alive ,  UPGRADE", extra=extra))
    wire.read_until(lambda received: b"\r\n\r\n" in received)
    expect(wire.received.startswith(b"HTTP/1.1 101"), f"{bytes(wire.received)!r}")
    expect(b"sec-websocket-protocol" not in bytes(wire.received).lower(), "a subprotocol nobody speaks was selected")
    wire.received.clear()
    finish(wire)


def connect_in_time():
    """The handshake has the same limit: a busy machine may need more attempts than one."""
    for _ in range(20):
        try:
            return connect()
        except (ConnectionError, ssl.SSLError):
            pass
    raise Failure("no handshake was done in time")


@probe("opening: silence after TLS ends in time")
def opening_silence():
    wire = connect_in_time()
    # The limit is 5 s; a busy machine may notice later.
    wire.read_to_end(timeout=30)
    expect(wire.ending != "open", "still open after 30 s")


@probe("opening: one byte a second does not put the limit off")
def opening_drip():
    wire = connect_in_time()
    start = time.monotonic()
    for byte in request():
        if wire.ending is not None or time.monotonic() - start > 30:
            break
        wire.send(bytes([byte]))
        wire.read_until(lambda received: False, timeout=1)
    expect(wire.ending is not None, "still open after 30 s")


# --- Frames


def close_code(wire):
    """The code of the close frame that must be the last one."""
    frames = frames_of(wire.received)
    expect(frames and frames[-1][1] == 8, f"no close frame at the end: {frames[-1:]}")
    expect(sum(1 for each in frames if each[1] == 8) == 1, "more than one close frame")
    payload = frames[-1][2]
    expect(len(payload) >= 2, "a close frame without a code")
    payload[2:].decode()
    return int.from_bytes(payload[:2], "big")


def finish(wire):
    """The closing handshake: ours first, the same code back, then close_notify and the end of the stream."""
    wire.send(frame(8, b"\x03\xe8bye"))
    wire.read_to_end()
    expect(wire.ending == "clean", f"ended {wire.ending}")
    expect(close_code(wire) == 1000, "the wrong close code")


def breach(data, code, before=()):
    """`data` must end the connection with `code`; what came before it is answered."""
    def run():
        wire = opened()
        wire.send(data)
        wire.read_to_end()
        found = close_code(wire)
        expect(found == code, f"close code {found} instead of {code}")
        expect(frames_of(wire.received)[:-1] == list(before), "wrong answers before it")
        expect(wire.ending == "clean", f"ended {wire.ending}")
    return run


BREACHES = {
    "an unmasked text frame": (frame(1, b"hello", mask=False), 1002),
    "an unmasked ping": (frame(9, b"", mask=False), 1002),
    "an unmasked close": (frame(8, b"\x03\xe8", mask=False), 1002),
    "125 bytes in a 16 bit length": (frame(2, b"a" * 125, length_bytes=2), 1002),
    "0 bytes in a 16 bit length": (frame(2, b"", length_bytes=2), 1002),
    "125 bytes in a 64 bit length": (frame(2, b"a" * 125, length_bytes=8), 1002),
    "65535 bytes in a 64 bit length": (frame(2, b"a" * 65535, length_bytes=8), 1002),
    "the highest bit of a length": (frame(2, b"", length_bytes=8, claimed=1 << 63), 1002),
    "all bits of a length": (frame(2, b"", length_bytes=8, claimed=(1 << 64) - 1), 1002),
    "63 bits of length": (frame(2, b"", length_bytes=8, claimed=(1 << 63) - 1), 1009),
    "a frame over the limit": (frame(2, b"", length_bytes=8, claimed=64 * MIB + 1), 1009),
    "a message over the limit in fragments": (
        frame(2, b"a" * MIB, final=False) + frame(0, b"", length_bytes=8, claimed=63 * MIB + 1), 1009),
    "a ping of 126 bytes": (frame(9, b"a" * 126), 1002),
    "a fragmented ping": (frame(9, b"a", final=False), 1002),
    "a close of 126 bytes": (frame(8, b"\x03\xe8" + b"a" * 124), 1002),
    "a close of one byte": (frame(8, b"\x03"), 1002),
    "a close whose reason is no UTF-8": (frame(8, b"\x03\xe8\xff"), 1007),
    "a continuation of nothing": (frame(0, b"a"), 1002),
    "a message inside a message": (frame(1, b"a", final=False) + frame(1, b"b"), 1002),
    "text that is no UTF-8": (frame(1, b"\xce\xba\xff"), 1007),
    "text that ends inside a character": (frame(1, b"\xce"), 1007),
    "text that is broken across fragments": (frame(1, b"\xce", final=False) + frame(0, b"a"), 1007),
    "a surrogate": (frame(1, b"\xed\xa0\x80"), 1007),
    # The rest of this frame never comes: the answer must not wait for it.
    "bad text at the start of an endless frame": (frame(1, b"\xff" + b"a" * 50, length_bytes=8, claimed=MIB), 1007),
    "after a breach nothing is answered": (frame(3) + frame(1, b"late") + frame(9), 1002),
    "a breach at the end of a burst of messages": (frame(1, b"hello") * 100 + frame(3), 1002, [(True, 1, b"hello")] * 100),
    "a breach before a megabyte of more": (frame(3) + frame(2, b"a" * MIB), 1002),
}
for bits in range(1, 8):
    BREACHES[f"reserved bits {bits}"] = (frame(1, b"hello", reserved=bits), 1002)
for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
    BREACHES[f"opcode {opcode}"] = (frame(opcode), 1002)
for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535):
    BREACHES[f"a close with code {code}"] = (frame(8, code.to_bytes(2, "big")), 1002)
for name, arguments in BREACHES.items():
    PROBES[f"frames: {name}"] = breach(*arguments)


@probe("closing: every valid code comes back, then close_notify and the end")
def closing_codes():
    for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999):
        wire = opened()
        wire.send(frame(8, code.to_bytes(2, "big")))
        wire.read_to_end()
        expect(close_code(wire) == code and wire.ending == "clean", f"{code}: {close_code(wire)}, ended {wire.ending}")


@probe("closing: an empty close is answered with 1000")
def closing_empty():
    wire = opened()
    wire.send(frame(8))
    wire.read_to_end()
    expect(close_code(wire) == 1000 and wire.ending == "clean", f"ended {wire.ending}")


@probe("closing: nothing after the close is answered")
def closing_then_more():
    wire = opened()
    wire.send(frame(1, b"before") + frame(8, b"\x03\xe8") + frame(1, b"after") + frame(9, b"after") + b"\xff" * 1000)
    wire.read_to_end()
    expect(frames_of(wire.received) == [(True, 1, b"before"), (True, 8, b"\x03\xe8")], f"{frames_of(wire.received)}")
    expect(wire.ending == "clean", f"ended {wire.ending}")


@probe("closing: byte by byte")
def closing_byte_by_byte():
    wire = opened()
    for byte in frame(1, b"hello") + frame(8, b"\x03\xe8"):
        wire.send(bytes([byte]))
    wire.read_to_end()
    expect(frames_of(wire.received) == [(True, 1, b"hello"), (True, 8, b"\x03\xe8")] and wire.ending == "clean", f"ended {wire.ending}")


# --- Echo


def echoes(data, answers):
    def run():
        wire = opened()
        wire.send(data)
        finish(wire)
        found = frames_of(wire.received)[:-1]
        expect(found == answers, f"{len(found)} answers instead of {len(answers)}, or others")
    return run


PROBES["echo: text and binary, one for one"] = echoes(
    frame(1, "µ".encode()) + frame(2, b"\0\xff") + frame(1) + frame(2), [(True, 1, "µ".encode()), (True, 2, b"\0\xff"), (True, 1, b""), (True, 2, b"")])
PROBES["echo: 16 MiB in one frame"] = echoes(frame(2, b"ab" * (8 * MIB)), [(True, 2, b"ab" * (8 * MIB))])
PROBES["echo: 16 MiB in 16 fragments"] = echoes(
    frame(2, b"a" * MIB, final=False) + frame(0, b"a" * MIB, final=False) * 14 + frame(0, b"a" * MIB), [(True, 2, b"a" * (16 * MIB))])
PROBES["echo: 65,536 fragments"] = echoes(
    frame(1, b"a", final=False) + frame(0, b"a", final=False) * 65534 + frame(0, b"a"), [(True, 1, b"a" * 65536)])
PROBES["echo: 65,536 empty fragments"] = echoes(
    frame(1, b"", final=False) + frame(0, b"", final=False) * 65534 + frame(0, b"a"), [(True, 1, b"a")])
PROBES["echo: 20,000 small messages in one go"] = echoes(frame(2, b"0123456789") * 20000, [(True, 2, b"0123456789")] * 20000)
PROBES["echo: pings between fragments"] = echoes(
    frame(1, b"a", final=False) + frame(9, b"x") + frame(0, b"b", final=False) + frame(10, b"y") + frame(0, b"c"),
    [(True, 10, b"x"), (True, 1, b"abc")])


# --- Floods


def memory_mib():
    """Resident memory of the server, or nothing to compare."""
    if options.pid is None:
        return 0
    with open(f"/proc/{options.pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1)) // 1024


@probe("flood: pings that nobody reads the answers of cost no memory")
def flood_pings():
    wire = opened()
    before = memory_mib()
    chunk = b"".join(frame(9, b"%0100d" % number) for number in range(500))
    sent = wire.send_without_reading(chunk, count=1000, patience=2)
    grown = memory_mib() - before
    expect(grown < 100, f"the server grew by {grown} MiB for {sent >> 20} MiB of pings")
    wire.resume(lambda received: not wire.backlog)
    finish(wire)
    answers = frames_of(wire.received)[:-1]
    expect(answers and all(each[1] == 10 for each in answers), "something other than pongs")
    expect(answers[-1][2] == b"%0100d" % 499, "the latest ping was not answered")


@probe("flood: messages that nobody reads the echoes of stop the reading")
def flood_messages():
    wire = opened()
    before = memory_mib()
    message = frame(2, b"a" * 65536)
    sent = wire.send_without_reading(message, count=8192, patience=2)
    grown = memory_mib() - before
    expect(sent < 512 * MIB, "the server took half a gigabyte without sending")
    expect(grown < 200, f"the server grew by {grown} MiB")
    echo = 65536 + 10
    count = sent // len(message)
    expect(wire.resume(lambda received: len(received) >= count * echo), f"{len(wire.received)} bytes of {count * echo} came back")
    finish(wire)
    expect(frames_of(wire.received)[:-1] == [(True, 2, b"a" * 65536)] * count, "not the same messages")


# --- Rude endings: the server must shrug, and serve the next one


def rude(end):
    def run():
        wire = opened()
        wire.send(frame(1, b"a", final=False) + frame(0, b"b" * 1000, final=False)[:50])
        end(wire)
        wire = opened()
        wire.send(frame(1, b"still there?"))
        finish(wire)
        expect(frames_of(wire.received)[0] == (True, 1, b"still there?"), "no echo")
    return run


def half_close(wire):
    wire.socket.shutdown(socket.SHUT_WR)
    wire.read_to_end()
    expect(wire.ending != "open", "still open after our end of the stream")


def notify_only(wire):
    wire.close_notify()
    wire.read_to_end()
    expect(wire.ending != "open", "still open after our close_notify")


def garbage(wire):
    wire.socket.sendall(b"\x17\x03\x03\x00\x20" + b"\0" * 32)
    wire.read_to_end()
    expect(wire.ending.startswith("alert"), f"a forged record ended {wire.ending}")


def vanish_in_flood(wire):
    wire.reset()
    wire = opened()
    wire.send_without_reading(frame(2, b"a" * 65536), count=200, patience=0.5)
    wire.reset()


PROBES["ending: a TCP reset"] = rude(lambda wire: wire.reset())
PROBES["ending: the end of the stream without close_notify"] = rude(half_close)
PROBES["ending: close_notify without a close frame"] = rude(notify_only)
PROBES["ending: a forged TLS record"] = rude(garbage)
PROBES["ending: a reset in the middle of a flood"] = rude(vanish_in_flood)


@probe("idle: 65 seconds of silence end nothing")
def idle():
    if not options.idle:
        return
    wire = opened()
    deadline = time.monotonic() + 65
    answered = 0
    while time.monotonic() < deadline:
        wire.read_until(lambda received: False, timeout=1)
        pings = [each for each in frames_of(wire.received) if each[1] == 9]
        for ping in pings[answered:]:
            wire.send(frame(10, ping[2]))
        answered = len(pings)
        expect(wire.ending is None, f"ended {wire.ending}")
    expect(answered >= 2, f"{answered} pings in 65 s")
    finish(wire)


def main():
    global options, context
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    for name in ("trust", "certificate", "key"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--pid", type=int)
    parser.add_argument("--tls", choices=["1.2", "1.3"], default="1.3")
    parser.add_argument("--idle", action="store_true", help="the probe that takes 65 seconds too")
    parser.add_argument("names", nargs="*", help="regular expressions")
    options = parser.parse_args()
    context = ssl.create_default_context(cafile=options.trust)
    context.minimum_version = context.maximum_version = ssl.TLSVersion["TLSv" + options.tls.replace(".", "_")]
    context.load_cert_chain(options.certificate, options.key)

    chosen = {name: run for name, run in PROBES.items() if not options.names or any(re.search(each, name) for each in options.names)}
    lock = threading.Lock()
    failures = []

    def run(item):
        name, function = item
        try:
            function()
        except Exception as error:
            with lock:
                failures.append(name)
                print(f"FAILED {name}: {type(error).__name__}: {error}", flush=True)

    # The floods measure the server's memory: each for itself. What waits for deadlines may wait together.
    alone = {name: run for name, run in chosen.items() if name.startswith("flood")}
    with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(run, [item for item in chosen.items() if item[0] not in alone]))
    for item in alone.items():
        run(item)
    print(f"{len(chosen) - len(failures)} of {len(chosen)} probes passed")
    return 1 if failures or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
