#!/usr/bin/env python3
"""A second client of mwstorage.v1, written from its documentation alone: MWProtocol.docc, NativeProtocol and NativeData.

usage: native_client.py HOST PORT CHAIN KEY TRUST < REQUESTS

Every line of standard input is a JSON array, a request's name and its arguments (see `REQUESTS`); every line of standard output is its
answer. Bytes are JSON strings of latin-1. Uses Python's standard library and nothing else.
"""
import base64
import collections
import hashlib
import json
import os
import socket
import ssl
import struct
import sys

CRITICAL = 0x8000


# --- RFC 6455, a client's side of it, as far as a server that sends whole binary messages goes


class WebSocket:
    def __init__(self, host, port, chain, key, trust):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(trust)
        context.load_cert_chain(chain, key)
        tcp = socket.create_connection((host, port), timeout=120)
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = context.wrap_socket(tcp, server_hostname=host)
        self.input = self.stream.makefile("rb")
        nonce = base64.b64encode(os.urandom(16)).decode()
        self.stream.sendall(
            f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {nonce}\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mwstorage.v1\r\n\r\n".encode()
        )
        status = self.input.readline().split(b" ")
        headers = {}
        while (line := self.input.readline().strip()):
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip().decode()
        if status[1] != b"101" or headers.get(b"sec-websocket-protocol") != "mwstorage.v1":
            raise SystemExit(f"no mwstorage.v1 here: {b' '.join(status).decode().strip()}")
        accept = base64.b64encode(hashlib.sha1((nonce + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
        assert headers[b"sec-websocket-accept"] == accept

    def send(self, payload, opcode=2):
        length, mask = len(payload), os.urandom(4)
        if length < 126:
            head = struct.pack(">BB", 0x80 | opcode, 0x80 | length)
        elif length < 65536:
            head = struct.pack(">BBH", 0x80 | opcode, 0xFE, length)
        else:
            head = struct.pack(">BBQ", 0x80 | opcode, 0xFF, length)
        keys = mask * (length // 4 + 1)
        masked = (int.from_bytes(payload, "big") ^ int.from_bytes(keys[:length], "big")).to_bytes(length, "big")
        self.stream.sendall(head + mask + masked)

    def receive(self):
        """The next message; pings are answered on the way."""
        message = b""
        while True:
            first, second = self.read(2)
            length = second & 127
            if length > 125:
                length = int.from_bytes(self.read(2 if length == 126 else 8), "big")
            payload, opcode = self.read(length), first & 15
            if opcode == 9:
                self.send(payload, 10)
            elif opcode == 8:
                raise EOFError(f"closed: {int.from_bytes(payload[:2], 'big')} {payload[2:].decode()}")
            elif opcode in (0, 2):
                message += payload
                if first & 128:
                    return message

    def read(self, count):
        data = self.input.read(count)
        if len(data) < count:
            raise EOFError("cut")
        return data


# --- frames and fields


def integer(tag, value):
    return field(tag, struct.pack(">q", value))


def truth(tag, value):
    return field(tag, bytes([value]))


def field(tag, value):
    return struct.pack(">HI", tag, len(value)) + value


def optional(tag, value, encode=integer):
    return b"" if value is None else encode(tag, value)


def fields(data):
    """Values by tag, each tag's in order."""
    result = collections.defaultdict(list)
    while data:
        tag, length = struct.unpack_from(">HI", data)
        assert len(data) >= 6 + length, "torn field"
        result[tag].append(data[6 : 6 + length])
        data = data[6 + length :]
    return result


def one(record, tag, default=b""):
    return record[tag][0] if record[tag] else default


def number(record, tag):
    return struct.unpack(">q", one(record, tag, bytes(8)))[0]


def is_true(record, tag):
    return one(record, tag) == b"\1"


def entry(data):
    record = fields(data)
    shown = {"key": one(record, 1), "value": one(record, 2), "revision": number(record, 3)}
    return shown | ({"lease": number(record, 4)} if record[4] else {})


def change(data):
    record = fields(data)
    return {"key": one(record, 1), "value": None if is_true(record, 3) else one(record, 2), "previous": number(record, 4)}


def failure(data):
    record = fields(data)
    return {"code": number(record, 1), "detail": one(record, 2).decode(), "retryable": is_true(record, 3)}


class Failed(Exception):
    pass


class Client:
    REPLY, FAILURE, EVENT = 1, 2, 3

    def __init__(self, *where):
        self.where = where
        self.next_id, self.events = 1, collections.defaultdict(collections.deque)
        self.session, self.sequence = None, 0
        self.connect()

    def connect(self):
        """Anew, over a connection of its own; the session stays."""
        self.socket = WebSocket(*self.where)
        self.events.clear()
        welcome = fields(self.ask(1, integer(1, 1) + field(2, b"native_client.py")))
        self.incarnation = one(welcome, 7)
        return {"principal": one(welcome, 3), "revision": number(welcome, 8), "incarnation": self.incarnation.hex()}

    def send(self, kind, body):
        request, self.next_id = self.next_id, self.next_id + 1
        self.socket.send(struct.pack(">IBBHi", 8 + len(body), 0, 0, kind, request) + body)
        return request

    def ask(self, kind, body=b""):
        return self.answer(self.send(kind, body))

    def answer(self, request):
        while True:
            for role, _, frame_id, body in self.frames():
                if role == self.EVENT:
                    continue
                assert frame_id == request, "an answer to nothing"
                if role == self.FAILURE:
                    raise Failed(failure(body))
                return body

    def frames(self):
        """Of one message; events are put where `event` looks for them."""
        data, result = self.socket.receive(), []
        while data:
            length, role, _, kind, frame_id = struct.unpack_from(">IBBHi", data)
            assert 8 <= length <= len(data) - 4, "torn frame"
            body, data = data[12 : 4 + length], data[4 + length :]
            if role == self.EVENT:
                self.events[frame_id].append((kind, body))
            result.append((role, kind, frame_id, body))
        return result

    # --- requests

    def write_id(self, tag, repeat=False):
        if self.session is None:
            self.session = one(fields(self.ask(4, integer(1, 0))), 1)
        self.sequence += not repeat
        return field(tag | CRITICAL, field(1, self.session) + integer(2, self.sequence) + integer(3, self.sequence - 1))

    def written(self, body):
        record = fields(body)
        return {"revision": number(record, 1), "repeated": is_true(record, 2), "changes": number(record, 3)}

    def put(self, key, value, lease=None, repeat=False):
        pair = field(1, field(1, key) + field(2, value))
        return self.written(self.ask(65, pair + optional(2 | CRITICAL, lease) + self.write_id(3, repeat)))

    def remove(self, *keys):
        return self.written(self.ask(66, b"".join(field(1, key) for key in keys) + self.write_id(2)))

    def get(self, *keys):
        return [entry(data) for data in fields(self.ask(64, b"".join(field(1, key) for key in keys)))[2]]

    def scan(self, lower, upper, limit=2, backward=False):
        """All of it, page by page, in one snapshot."""
        snapshot, entries = number(fields(self.ask(69)), 1), []
        while True:
            bounds = field(1, lower) + optional(2, upper, field)
            page = fields(self.ask(67, field(1, bounds) + truth(2, backward) + integer(4, limit) + integer(6 | CRITICAL, snapshot)))
            entries += [entry(data) for data in page[2]]
            if not is_true(page, 3):
                self.ask(70, integer(1, snapshot))
                return entries
            if backward:
                upper = entries[-1]["key"]
            else:
                lower = entries[-1]["key"] + b"\0"

    def put_if_revision(self, key, revision, value):
        compare = field(1 | CRITICAL, field(1, key) + integer(2, 1) + integer(3, 0) + integer(4, revision))
        operation = lambda tag, action: field(tag, integer(1, action) + field(2, key) + field(3, value))
        record = fields(self.ask(68, compare + operation(2, 1) + operation(3, 0) + self.write_id(4)))
        return {"revision": number(record, 1), "succeeded": is_true(record, 3), "before": [entry(data) for data in record[4]]}

    def grant_lease(self, milliseconds):
        return number(fields(self.ask(112, integer(1, milliseconds) + self.write_id(2))), 1)

    def revoke_lease(self, lease):
        return self.written(self.ask(114, integer(1, lease) + self.write_id(2)))

    def watch(self, lower, upper, after=None, with_state=False):
        position = b"" if after is None else integer(2 | CRITICAL, after) + field(3 | CRITICAL, self.incarnation)
        request = self.send(96, field(1, field(1, lower) + optional(2, upper, field)) + position + truth(5 | CRITICAL, with_state))
        return {"watch": request, "revision": number(fields(self.answer(request)), 1)}

    def event(self, watch):
        while not self.events[watch]:
            self.frames()
        kind, body = self.events[watch].popleft()
        record = fields(body)
        name = {1: "changes", 2: "progress", 3: "state", 4: "synced", 5: "resync", 6: "watchEnded"}.get(kind, kind)
        if kind == 1:
            return {"event": name, "revision": number(record, 1), "changes": [change(data) for data in record[2]]}
        if kind == 3:
            return {"event": name, "revision": number(record, 1), "entries": [entry(data) for data in record[2]]}
        if kind == 6:
            return {"event": name, "failure": failure(one(record, 1))}
        return {"event": name, "revision": number(record, 2 if kind == 5 else 1)}

    def unknown(self):
        """A request of a kind that nobody has, with a field that nobody has."""
        return self.ask(40000, field(77, b"?"))


REQUESTS = "connect put remove get scan put_if_revision grant_lease revoke_lease watch event unknown".split()


def main():
    host, port, chain, key, trust = sys.argv[1:]
    client = Client(host, int(port), chain, key, trust)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        assert name in REQUESTS, name
        try:
            result = getattr(client, name)(*[value.encode("latin-1") if isinstance(value, str) else value for value in arguments])
        except Failed as failed:
            result = {"failure": failed.args[0]}
        print(json.dumps(result, default=lambda value: value.decode("latin-1")), flush=True)


if __name__ == "__main__":
    main()
