"""Load for etcd: puts or linearizable gets of its KV service, gRPC over HTTP/2 by hand, many requests in flight.

No package for it is in every distribution, and a generator has to be cheap: a request is a HEADERS frame with literals of the static table,
one DATA frame, and nothing else. Every reply is checked: its status, and for a get its value. Prints one JSON object.

usage: etcd_load.py fill|put|get --port N --certificate FILE --key FILE --trust FILE [--connections N] [--in-flight N] [--requests N]
                    [--keys N] [--value-bytes N]
"""

import argparse
import json
import random
import resource
import selectors
import socket
import ssl
import struct
import time

READ_BYTES = 1 << 18
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE = 1, 4
LARGEST_WINDOW = (1 << 31) - 1
DEFAULT_WINDOW = 65535
REFILL_BYTES = 1 << 30
# `grpc-status: 0` as a literal: we allow the server no table, so that it is the same each time. The name is Huffman coded (RFC 7541,
# appendix B); the first may follow an update of the table's size to 0.
GRPC_OK = bytes.fromhex("00889acac8b21234da8f0130")
TABLE_OF_NOTHING = b"\x20"


class Refused(Exception):
    """etcd said something else than what a request that succeeds is answered with."""


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number, content):
    """A length-delimited field of protocol buffers."""
    return bytes([number << 3 | 2]) + varint(len(content)) + content


def header_block(path, authority):
    """The request's headers: static names (RFC 7541, appendix A), values as they are, nothing indexed."""
    def literal(name, value):
        return name + bytes([len(value)]) + value

    return b"".join([
        b"\x83", b"\x87", literal(b"\x04", path), literal(b"\x01", authority), literal(b"\x0f\x10", b"application/grpc"),
        literal(b"\x00\x02te", b"trailers")])


class Plan:
    """Which requests there are, and what they are answered with."""

    def __init__(self, options):
        self.kind, self.keys, self.value_bytes = options.kind, options.keys, options.value_bytes
        self.left = options.keys if options.kind == "fill" else options.requests
        self.next = 0
        path = b"/etcdserverpb.KV/Range" if options.kind == "get" else b"/etcdserverpb.KV/Put"
        self.headers = header_block(path, b"localhost:%d" % options.port)

    def take(self):
        """The number of the next request's key."""
        self.left -= 1
        if self.kind == "fill":
            self.next += 1
            return self.next - 1
        return random.randrange(self.keys)

    def value(self, number):
        return (b"%016d" % number * (self.value_bytes // 16 + 1))[:self.value_bytes]

    def message(self, number):
        """The gRPC message: a RangeRequest or a PutRequest."""
        body = field(1, b"benchmark;%d" % number)
        if self.kind != "get":
            body += field(2, self.value(number))
        return b"\x00" + struct.pack(">I", len(body)) + body

    def is_answered(self, number, message):
        """Whether a message is a RangeResponse with the value, or a PutResponse: either begins with a header."""
        if message[:1] != b"\x00" or message[5:6] != b"\x0a":
            return False
        return self.kind != "get" or field(5, self.value(number)) in message


class Connection:
    """One connection with so many requests in flight."""

    def __init__(self, options, context, plan):
        self.plan, self.in_flight = plan, options.in_flight
        plain = socket.create_connection(("127.0.0.1", options.port))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(plain, server_hostname="localhost")
        if self.socket.selected_alpn_protocol() != "h2":
            raise Refused("etcd does not speak HTTP/2")
        self.socket.setblocking(False)
        settings = struct.pack(">HIHI", HEADER_TABLE_SIZE, 0, INITIAL_WINDOW_SIZE, LARGEST_WINDOW)
        self.outbound = bytearray(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, settings))
        self.grant(LARGEST_WINDOW - DEFAULT_WINDOW)
        self.inbound = bytearray()
        self.window, self.consumed, self.next_stream = DEFAULT_WINDOW, 0, 1
        # By stream: when it was sent, its key, what came of it.
        self.streams = {}
        self.latencies = []
        self.failures = self.wrong = 0

    def grant(self, count):
        self.outbound += frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", count))

    def send(self):
        """Puts as many requests on their way as may be."""
        now = time.perf_counter()
        while self.plan.left > 0 and len(self.streams) < self.in_flight and self.window > self.plan.value_bytes + 256:
            number = self.plan.take()
            message = self.plan.message(number)
            stream, self.next_stream = self.next_stream, self.next_stream + 2
            self.outbound += frame(HEADERS, END_HEADERS, stream, self.plan.headers) + frame(DATA, END_STREAM, stream, message)
            self.window -= len(message)
            self.streams[stream] = (now, number, bytearray())
        self.flush()

    def flush(self):
        while self.outbound:
            try:
                sent = self.socket.send(self.outbound)
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                return
            del self.outbound[:sent]

    def receive(self):
        """Reads what is there, and takes its frames."""
        while True:
            try:
                data = self.socket.recv(READ_BYTES)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            if not data:
                raise Refused("etcd ended the connection")
            self.inbound += data
        at, inbound = 0, self.inbound
        while len(inbound) - at >= 9:
            length = int.from_bytes(inbound[at:at + 3], "big")
            if len(inbound) - at < 9 + length:
                break
            kind, flags, stream = inbound[at + 3], inbound[at + 4], int.from_bytes(inbound[at + 5:at + 9], "big")
            self.take(kind, flags, stream, bytes(inbound[at + 9:at + 9 + length]))
            at += 9 + length
        del inbound[:at]

    def take(self, kind, flags, stream, payload):
        if kind == DATA:
            self.consumed += len(payload)
            if self.consumed >= REFILL_BYTES:
                self.grant(self.consumed)
                self.consumed = 0
            self.streams[stream][2].extend(payload)
        elif kind == HEADERS:
            if flags & END_STREAM:
                self.finish(stream, payload.removeprefix(TABLE_OF_NOTHING))
        elif kind == WINDOW_UPDATE:
            if stream == 0:
                self.window += int.from_bytes(payload, "big")
        elif kind == SETTINGS:
            if not flags & ACK:
                self.outbound += frame(SETTINGS, ACK, 0, b"")
        elif kind == PING:
            if not flags & ACK:
                self.outbound += frame(PING, ACK, 0, payload)
        elif kind == RESET:
            self.streams.pop(stream)
            self.failures += 1
        elif kind == GOAWAY:
            raise Refused(f"etcd said goodbye: {payload!r}")

    def finish(self, stream, trailers):
        """The end of a reply."""
        sent, number, message = self.streams.pop(stream)
        self.latencies.append(time.perf_counter() - sent)
        if not trailers.startswith(GRPC_OK):
            self.failures += 1
        elif not self.plan.is_answered(number, message):
            self.wrong += 1


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["fill", "put", "get"])
    for name in ("certificate", "key", "trust"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--port", type=int, required=True)
    for name, default in (("connections", 16), ("in-flight", 1), ("requests", 1000), ("keys", 10_000), ("value-bytes", 1024)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def drive(connections):
    """Runs until every request is answered; how long that took."""
    selector = selectors.DefaultSelector()
    for connection in connections:
        selector.register(connection.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)
    begin = time.perf_counter()
    for connection in connections:
        connection.send()
    while any(connection.streams for connection in connections):
        for key, _ in selector.select(60):
            connection = key.data
            connection.receive()
            connection.send()
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.outbound else 0)
            if key.events != events:
                selector.modify(connection.socket, events, connection)
    return time.perf_counter() - begin


def main():
    options = parse()
    context = ssl.create_default_context(cafile=options.trust)
    context.load_cert_chain(options.certificate, options.key)
    context.set_alpn_protocols(["h2"])
    plan = Plan(options)
    connections = [Connection(options, context, plan) for _ in range(options.connections)]
    cpu = time.process_time()
    seconds = drive(connections)
    cpu = time.process_time() - cpu
    latencies = sorted(latency for connection in connections for latency in connection.latencies)
    count = len(latencies)

    def percentile(share):
        return round(latencies[min(count - 1, int(count * share))] * 1e6, 1)

    print(json.dumps({
        "requests": count, "seconds": seconds, "p50_us": percentile(0.5), "p99_us": percentile(0.99), "p999_us": percentile(0.999),
        "failures": sum(connection.failures for connection in connections),
        "wrong": sum(connection.wrong for connection in connections), "generator_cpu_us": cpu / count * 1e6,
        "generator_cpu_share": cpu / seconds}))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    main()
