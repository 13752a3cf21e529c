"""Opens connections with mutual TLS, sees that each is served, and holds them until standard input ends.

usage: holder.py redis|nginx PORT CERTIFICATE KEY TRUST COUNT      prints "holding COUNT"
"""

import asyncio
import resource
import ssl
import sys

OPENING = 32
# What is said on each connection once, and the end of what is answered.
GREETINGS = {"redis": (b"PING\r\n", b"+PONG\r\n"), "nginx": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\r\n\r\n")}


async def main(kind, port, certificate, key, trust, count):
    context = ssl.create_default_context(cafile=trust)
    context.load_cert_chain(certificate, key)
    request, reply = GREETINGS[kind]
    room = asyncio.Semaphore(OPENING)

    async def open_one():
        async with room:
            reader, writer = await asyncio.open_connection("localhost", int(port), ssl=context)
            writer.write(request)
            await reader.readuntil(reply)
            return writer

    held = await asyncio.gather(*(open_one() for _ in range(int(count))))
    print(f"holding {len(held)}", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(main(*sys.argv[1:]))
