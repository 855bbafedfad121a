"""A client of the daemon that means no good. Run by hostile.rs and fairness.rs of tests/tests/process as a user that is not root:

    attack.py SOCKET KIND [FRAMES]

It says "ready" once the attack is in place, keeps it up until its standard input ends, and then prints one line
with what it did. FRAMES is a file with requests, each with its prefix. Random bytes come from a fixed seed.
"""

import os
import random
import resource
import select
import socket
import struct
import sys
import threading
import time

PREAMBLE = b"ccd\x01"
WHERE, KIND = sys.argv[1:3]
FRAMES = open(sys.argv[3], "rb").read() if len(sys.argv) > 3 else b""
CHANCE = random.Random(4711)


def connect(preamble=PREAMBLE):
    one = socket.socket(socket.AF_UNIX)
    one.settimeout(10)
    one.connect(WHERE)
    if preamble:
        one.sendall(preamble)
    return one


def told_to_end(wait=0.0):
    return bool(select.select([sys.stdin], [], [], wait)[0])


def send(one, data):
    """True as long as the daemon takes it."""
    try:
        one.sendall(data)
        return True
    except (OSError, TimeoutError):
        return False


def crowd(preamble):
    """As many connections as there may be; who is hung up on, tries once more."""
    limit = 6000
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    kept = []
    for _ in range(3000):
        try:
            kept.append(connect(preamble))
        except OSError:
            break
    open_ones = [one for one in kept if not hung_up(one)]
    yield
    while not told_to_end(0.05):
        # Those that were refused try again and again.
        for _ in range(50):
            try:
                connect(preamble).close()
            except OSError:
                pass
    yield f"{len(open_ones)} of {len(kept)} stayed open"


def hung_up(one):
    one.setblocking(False)
    try:
        while True:
            if not one.recv(4096):
                return True
    except BlockingIOError:
        return False
    except OSError:
        return True


def nonsense():
    """Random bytes after a good preamble, lengths that are huge, a preamble of something else."""
    rounds = 0
    yield
    while not told_to_end():
        for _ in range(20):
            rounds += 1
            try:
                one = connect(None if rounds % 3 == 0 else PREAMBLE)
            except OSError:
                continue
            kind = rounds % 5
            body = CHANCE.randbytes(CHANCE.randrange(1, 3000))
            if kind == 0:
                send(one, struct.pack("<I", CHANCE.randrange(1 << 32)) + body)
            elif kind == 1:
                send(one, struct.pack("<I", len(body)) + body)
            elif kind == 2:
                send(one, struct.pack("<I", 17 << 20) + body)
            elif kind == 3 and FRAMES:
                spoiled = bytearray(FRAMES[:4096])
                for _ in range(3):
                    spoiled[CHANCE.randrange(4, len(spoiled))] = CHANCE.randrange(256)
                send(one, bytes(spoiled))
            else:
                send(one, body)
            if rounds % 7 == 0:
                one.shutdown(socket.SHUT_WR)
            if rounds % 2 == 0:
                try:
                    while one.recv(65536):
                        pass
                except OSError:
                    pass
            one.close()
    yield f"{rounds} rounds"


def deaf():
    """Asks for everything, over and over, on many connections, and reads nothing."""
    sockets = [connect() for _ in range(200)]
    for one in sockets:
        one.setblocking(False)
    pending = {one: FRAMES for one in sockets}

    def push():
        for one, rest in list(pending.items()):
            try:
                taken = one.send(rest)
                pending[one] = rest[taken:] or FRAMES
            except BlockingIOError:
                pass
            except OSError:
                del pending[one]

    for _ in range(20):
        push()
        time.sleep(0.01)
    yield
    while not told_to_end(0.01):
        push()
    yield f"{len(pending)} of {len(sockets)} are still connected"


def slow():
    """Begins requests of 16 MiB, sends most of them at once, and then a byte a second."""
    sockets = []
    for _ in range(100):
        one = connect()
        one.settimeout(1)
        if send(one, struct.pack("<I", 16 << 20)) and send(one, bytes(4 << 20)):
            sockets.append(one)
    yield
    alive = sockets
    while not told_to_end(1):
        alive = [one for one in alive if send(one, b"\0")]
    yield f"{len(sockets)} were taken, {len(alive)} are still connected"


def flood():
    """As many questions as go out, and every answer read."""
    sockets = [connect() for _ in range(50)]
    for one in sockets:
        one.setblocking(False)
    answered = 0
    started = False
    while not started or not told_to_end():
        readable, writable, _ = select.select(sockets, sockets, [], 0.1)
        for one in readable:
            try:
                answered += len(one.recv(1 << 18))
            except OSError:
                pass
        for one in writable:
            try:
                one.send(FRAMES)
            except OSError:
                pass
        if not started and answered > 1 << 16:
            started = True
            yield
    yield f"{answered} bytes of answers"


def read_whole(one, count):
    left = count
    while left:
        got = one.recv(min(left, 1 << 20))
        if not got:
            raise OSError("hung up on")
        left -= len(got)


def busy():
    """Request after request on eight connections, each answered before the next."""
    frames, at = [], 0
    while at < len(FRAMES):
        end = at + 4 + struct.unpack_from("<I", FRAMES, at)[0]
        frames.append(FRAMES[at:end])
        at = end
    done = threading.Event()
    counts = [0] * 8

    def work(number):
        one = connect()
        one.settimeout(60)
        read_whole(one, 4)
        turn = number
        while not done.is_set():
            one.sendall(frames[turn % len(frames)])
            read_whole(one, struct.unpack("<I", read_exactly(one, 4))[0])
            counts[number] += 1
            turn += 8

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(8)]
    for one in threads:
        one.start()
    yield
    while not told_to_end(0.1):
        pass
    done.set()
    yield f"{sum(counts)} answers, {sum(one.is_alive() for one in threads)} of 8 connections at work"


def read_exactly(one, count):
    data = b""
    while len(data) < count:
        got = one.recv(count - len(data))
        if not got:
            raise OSError("hung up on")
        data += got
    return data


ATTACKS = {
    "busy": busy,
    "silent": lambda: crowd(b""),
    "idle": lambda: crowd(PREAMBLE),
    "nonsense": nonsense,
    "deaf": deaf,
    "slow": slow,
    "flood": flood,
}

attack = ATTACKS[KIND]()
next(attack)
print("ready", flush=True)
print(next(attack), flush=True)
os._exit(0)
