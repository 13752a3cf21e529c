#!/usr/bin/env python3
"""A long cable between two network namespaces: IP packets are late by a delay, some are lost, and the cable can be cut.

usage: link.py FIRST SECOND [--delay MS] [--jitter MS] [--loss SHARE] [--seed N]

Makes the TUN interfaces FIRST and SECOND in the current namespace (move each to where it belongs once 'ready' is printed), and carries
packets between them. SIGUSR1 cuts the cable, SIGUSR2 mends it, SIGTERM ends it; how many packets it carried and lost is printed then.
The kernel's netem does the same, but is a module that many machines do not have.
"""

import argparse
import fcntl
import heapq
import os
import random
import select
import signal
import struct
import time

TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000
LARGEST_PACKET = 65536
# Packets on their way: beyond it they are dropped, as a router's queue would.
LARGEST_QUEUE = 10000


def tun(name):
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    return descriptor


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("--delay", type=float, default=20, help="milliseconds, each way")
    parser.add_argument("--jitter", type=float, default=5, help="milliseconds, at most, more")
    parser.add_argument("--loss", type=float, default=0.01, help="share of the packets that are lost")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    state = {"cut": False, "end": False}
    signal.signal(signal.SIGUSR1, lambda *_: state.update(cut=True))
    signal.signal(signal.SIGUSR2, lambda *_: state.update(cut=False))
    signal.signal(signal.SIGTERM, lambda *_: state.update(end=True))

    ends = [tun(options.first), tun(options.second)]
    print("ready", flush=True)
    queue = []
    latest = [0.0, 0.0]
    number = carried = lost = 0
    while not state["end"]:
        wait = max(0, queue[0][0] - time.monotonic()) if queue else 0.2
        readable, _, _ = select.select(ends, [], [], min(wait, 0.2))
        now = time.monotonic()
        for end in readable:
            way = ends.index(end)
            while True:
                try:
                    packet = os.read(end, LARGEST_PACKET)
                except BlockingIOError:
                    break
                except OSError:
                    break  # the interface is not up yet
                if state["cut"] or chance.random() < options.loss or len(queue) >= LARGEST_QUEUE:
                    lost += 1
                    continue
                number += 1
                # A cable does not let packets overtake each other.
                latest[way] = max(latest[way], now + (options.delay + chance.uniform(0, options.jitter)) / 1000)
                heapq.heappush(queue, (latest[way], number, 1 - way, packet))
        now = time.monotonic()
        while queue and queue[0][0] <= now:
            _, _, way, packet = heapq.heappop(queue)
            if state["cut"]:
                lost += 1
                continue
            try:
                os.write(ends[way], packet)
                carried += 1
            except OSError:
                lost += 1
    print(f"{carried} packets carried, {lost} lost", flush=True)


if __name__ == "__main__":
    main()
