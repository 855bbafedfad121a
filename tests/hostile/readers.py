"""A reader of the past that takes what it can get. Run by tests/tests/process/shares.rs as a user that is not root:

    readers.py SOCKET CONNECTIONS again|once FRAMES

It opens so many connections and sends what is in the file FRAMES on each: a watch from the past, or questions to the history.
It says "ready" once every connection was answered something (`once`), or once all was sent (`again`: questions are sent again as
they are answered). It keeps reading until its standard input ends, and then prints one line with what it did.
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

answered, said, got = set(), False, 0
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
        got += len(data)
        # The preamble of the daemon is no answer.
        if len(data) > len(PREAMBLE) or one in answered:
            answered.add(one)
        if MODE == "again":
            try:
                one.send(FRAMES)
            except OSError:
                pass
print(f"{got} bytes on {COUNT} connections", flush=True)
os._exit(0)
