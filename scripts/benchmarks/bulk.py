"""Gets one large value of our server again and again, over the mwDB protocol: what goes on beside other requests.

usage: bulk.py PORT CERTIFICATE KEY TRUST BYTES
"""

import os
import socket
import ssl
import struct
import sys

KEY = b"bulk;0"


class Connection:
    """One WebSocket connection."""

    def __init__(self, port, certificate, key, trust):
        context = ssl.create_default_context(cafile=trust)
        context.load_cert_chain(certificate, key)
        self.socket = context.wrap_socket(socket.create_connection(("localhost", int(port))), server_hostname="localhost")
        self.socket.sendall(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n")
        self.bytes = bytearray()
        while b"\r\n\r\n" not in self.bytes:
            self.more()
        if not self.bytes.startswith(b"HTTP/1.1 101"):
            sys.exit(f"refused: {bytes(self.bytes[:200])!r}")
        del self.bytes[:self.bytes.index(b"\r\n\r\n") + 4]

    def more(self):
        data = self.socket.recv(1 << 18)
        if not data:
            sys.exit("the server ended the connection")
        self.bytes += data

    def send(self, message):
        """A masked frame; the mask is nothing, as there is nobody to hide from."""
        self.socket.sendall(struct.pack(">BBQI", 0x82, 0xFF, len(message), 0) + message if len(message) > 65535 else
                            struct.pack(">BBHI", 0x82, 0xFE, len(message), 0) + message if len(message) > 125 else
                            struct.pack(">BBI", 0x82, 0x80 | len(message), 0) + message)

    def receive(self):
        """The next message's length; pings and fragments do not come so soon."""
        while True:
            while len(self.bytes) < 10:
                if len(self.bytes) >= 2 and self.bytes[1] < 126:
                    break
                self.more()
            length, head = self.bytes[1], 2
            if length == 126:
                length, head = int.from_bytes(self.bytes[2:4], "big"), 4
            elif length == 127:
                length, head = int.from_bytes(self.bytes[2:10], "big"), 10
            while len(self.bytes) < head + length:
                self.more()
            is_message = self.bytes[0] == 0x82
            del self.bytes[:head + length]
            if is_message:
                return length


def main(port, certificate, key, trust, count):
    connection = Connection(port, certificate, key, trust)
    value = os.urandom(int(count)).replace(b"#", b"-")
    connection.send(KEY + b"#" + value + b"#\x02A")
    connection.receive()
    while True:
        connection.send(KEY + b"#\x00A")
        if connection.receive() < len(value):
            sys.exit("the value is not what was put")


if __name__ == "__main__":
    main(*sys.argv[1:])
