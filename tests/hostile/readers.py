"""A reader of the past that takes what it can get. Run by tests/tests/process/shares.rs as a user that is not root:

    readers.py SOCKET CONNECTIONS again|once FRAMES

It opens so many connections and sends what is in the file FRAMES on each: a watch from the past, or questions to the history.
It says "ready" once every connection was answered something (`once`), or once all was sent (`again`: questions are sent again as
they are answered). It keeps reading until its standard input ends, and then prints one line: how many answers it got, and on how
many of its connections questions still waited.
"""

import os
import select
import socket
import sys

PREAMBLE = b"ccd\x01"
WHERE, COUNT, MODE, FRAMES = sys.argv[1], int(sys.argv[2]), sys.argv[3], open(sys.argv[4], "rb").read()

sockets = []
for _ in range(COUNT):
    one = socket.socket(socket.AF_UNIX)
    one.connect(WHERE)
    one.sendall(PREAMBLE + FRAMES)
    one.setblocking(False)
    sockets.append(one)


class Frames:
    """Counts whole frames of what is received: four bytes of length, little-endian, and so many bytes."""

    def __init__(self, skip):
        self.count, self.head, self.left, self.in_frame = 0, b"", skip, False

    def take(self, data):
        at = 0
        while at < len(data):
            if self.left:
                step = min(self.left, len(data) - at)
                self.left -= step
                at += step
                if self.left == 0 and self.in_frame:
                    self.count += 1
                    self.in_frame = False
                continue
            step = min(4 - len(self.head), len(data) - at)
            self.head += data[at : at + step]
            at += step
            if len(self.head) == 4:
                self.left, self.in_frame = int.from_bytes(self.head, "little"), True
                self.head = b""


sent = Frames(0)
sent.take(FRAMES)
EACH = sent.count
answered, said = set(), False
frames = {one: Frames(len(PREAMBLE)) for one in sockets}
asked = {one: EACH for one in sockets}
while sockets:
    if not said and (MODE == "again" or len(answered) == COUNT):
        print("ready", flush=True)
        said = True
    readable, _, _ = select.select(sockets + [sys.stdin], [], [], 1)
    if sys.stdin in readable:
        break
    for one in readable:
        try:
            data = one.recv(1 << 18)
        except BlockingIOError:
            continue
        except OSError:
            data = b""
        if not data:
            sockets.remove(one)
            continue
        frames[one].take(data)
        # The preamble of the daemon is no answer.
        if len(data) > len(PREAMBLE) or one in answered:
            answered.add(one)
        if MODE == "again":
            # Whole: a request that is sent in part is hung up on.
            try:
                if asked[one] - frames[one].count < EACH:
                    one.setblocking(True)
                    one.sendall(FRAMES)
                    one.setblocking(False)
                    asked[one] += EACH
            except OSError:
                pass
answers = sum(of.count for of in frames.values())
waiting = sum(asked[one] > frames[one].count for one in sockets)
print(f"{answers} answers on {waiting} connections of {COUNT}", flush=True)
os._exit(0)
