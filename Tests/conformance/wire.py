"""Raw bytes over mutual TLS, with an exact account of how the other side ended.

Nothing here knows WebSocket's rules, so that every one of them can be broken.
"""

import os
import select
import socket
import ssl
import struct
import time

READ_BYTES = 1 << 16
# Seconds for what must happen, however busy the machine is: whoever waits so long waits in vain.
PATIENCE = 120


class Wire:
    """One TLS connection. `ending` is how the peer ended it:

    `clean`    close_notify, then the end of the TCP stream
    `ragged`   the end of the TCP stream without close_notify
    `reset`    a TCP reset
    `alert …`  a TLS alert
    `open`     not ended in time
    """

    def __init__(self, connected, context, server_name=None):
        """`connected` is a socket; with a server name we are the client on it, without one the server."""
        self.socket = connected
        self.socket.settimeout(PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=server_name is None, server_hostname=server_name)
        self.received = bytearray()
        self.ending = None
        self.has_close_notify = False
        self.handshake()

    def handshake(self):
        while True:
            try:
                self.tls.do_handshake()
                self.flush()
                # What came with the end of the handshake.
                self.decrypt()
                return
            except ssl.SSLWantReadError:
                self.flush()
                data = self.socket.recv(READ_BYTES)
                if not data:
                    raise ConnectionError("the peer ended the connection in the TLS handshake")
                self.incoming.write(data)

    def flush(self):
        data = self.outgoing.read()
        if data:
            self.socket.sendall(data)

    def send(self, data):
        """Sends all of it, reading meanwhile so that neither side waits for the other."""
        self.tls.write(data) if data else None
        pending = memoryview(self.outgoing.read())
        self.socket.setblocking(False)
        try:
            deadline = time.monotonic() + PATIENCE
            while pending and self.ending is None:
                readable, writable, _ = select.select([self.socket], [self.socket], [], max(0, deadline - time.monotonic()))
                if not readable and not writable:
                    raise TimeoutError("the server takes nothing more")
                if readable:
                    self.take()
                if writable and self.ending is None:
                    try:
                        pending = pending[self.socket.send(pending):]
                    except BlockingIOError:
                        pass
                    except OSError:
                        # What the server had to say is still to be read.
                        break
        finally:
            self.socket.setblocking(True)

    def send_without_reading(self, chunk, count, patience=3.0):
        """Sends `chunk` up to `count` times, reading nothing, until the server takes nothing for `patience` seconds.

        Returns the plaintext bytes that were handed over; what stays unsent is sent by `resume`."""
        sent = 0
        self.socket.setblocking(False)
        self.backlog = memoryview(b"")
        try:
            for _ in range(count):
                self.tls.write(chunk)
                self.backlog = memoryview(self.outgoing.read())
                sent += len(chunk)
                while self.backlog:
                    if not select.select([], [self.socket], [], patience)[1]:
                        return sent
                    try:
                        self.backlog = self.backlog[self.socket.send(self.backlog):]
                    except BlockingIOError:
                        pass
        finally:
            self.socket.setblocking(True)
        return sent

    def resume(self, until, timeout=PATIENCE):
        """Sends the backlog and reads, until `until(received)`."""
        self.socket.setblocking(False)
        deadline = time.monotonic() + timeout
        try:
            while self.ending is None and not until(self.received) and time.monotonic() < deadline:
                readable, writable, _ = select.select([self.socket], [self.socket] if self.backlog else [], [], 1)
                if readable:
                    self.take()
                if writable and self.backlog:
                    self.backlog = self.backlog[self.socket.send(self.backlog):]
        finally:
            self.socket.setblocking(True)
        return until(self.received)

    def take(self):
        """Reads what is there."""
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except (ConnectionResetError, BrokenPipeError):
            self.ending = "reset"
            return
        if not data:
            self.ending = "clean" if self.has_close_notify else "ragged"
            return
        self.incoming.write(data)
        self.decrypt()

    def decrypt(self):
        try:
            while not self.has_close_notify:
                plain = self.tls.read(READ_BYTES)
                if plain:
                    self.received += plain
                else:
                    self.has_close_notify = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.has_close_notify = True
        except ssl.SSLError as error:
            self.ending = f"alert {error.reason}"

    def read_to_end(self, timeout=PATIENCE):
        """Reads until the server has ended the connection, without ending it ourselves."""
        self.read_until(lambda received: False, timeout)
        if self.ending is None:
            self.ending = "open"
        return self.ending

    def read_until(self, condition, timeout=PATIENCE):
        deadline = time.monotonic() + timeout
        while self.ending is None and not condition(self.received):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.socket], [], [], left)[0]:
                break
            self.take()
        return condition(self.received)

    def close_notify(self):
        try:
            self.tls.unwrap()
        except (ssl.SSLWantReadError, ssl.SSLError):
            pass
        self.flush()

    def reset(self):
        """Ends with a TCP reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self):
        self.socket.close()


def frame(opcode, payload=b"", final=True, reserved=0, mask=True, length_bytes=None, claimed=None):
    """A frame, a client's unless `mask` says otherwise; every field may be wrong. `length_bytes` 0, 2 or 8 chooses the form of the length."""
    length = len(payload) if claimed is None else claimed
    if length_bytes is None:
        length_bytes = 0 if length < 126 else 2 if length < 65536 else 8
    head = bytes([(0x80 if final else 0) | reserved << 4 | opcode])
    bit = 0x80 if mask else 0
    if length_bytes == 0:
        head += bytes([bit | length])
    elif length_bytes == 2:
        head += bytes([bit | 126]) + length.to_bytes(2, "big")
    else:
        head += bytes([bit | 127]) + length.to_bytes(8, "big")
    if not mask:
        return head + payload
    key = os.urandom(4)
    return head + key + masked(payload, key)


def masked(payload, key):
    count = len(payload)
    stream = int.from_bytes((key * (count // 4 + 1))[:count], "big")
    return (int.from_bytes(payload, "big") ^ stream).to_bytes(count, "big") if count else b""


def frames_of(data, from_client=False):
    """What the peer sent: a list of (final, opcode, payload); ValueError when it is malformed, wrongly masked, or ends in the middle."""
    frames, position = [], 0
    while position < len(data):
        if len(data) - position < 2:
            raise ValueError("half a header")
        first, second = data[position], data[position + 1]
        if bool(second & 0x80) != from_client:
            raise ValueError("a frame with the wrong masking")
        if first & 0x70:
            raise ValueError("a reserved bit")
        length, position = second & 0x7F, position + 2
        for short, size, least in ((126, 2, 126), (127, 8, 65536)):
            if second & 0x7F == short:
                length, position = int.from_bytes(data[position:position + size], "big"), position + size
                if length < least:
                    raise ValueError("a length that is not minimal")
        key, position = bytes(data[position:position + 4 * from_client]), position + 4 * from_client
        if len(data) - position < length:
            raise ValueError("half a frame")
        payload = bytes(data[position:position + length])
        frames.append((bool(first & 0x80), first & 0x0F, masked(payload, key) if from_client else payload))
        position += length
    return frames
