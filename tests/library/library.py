"""libccd.so through ctypes, against a running node.

    library.py LIBRARY calls RUN ETC        every call, from several threads
    library.py LIBRARY answers RUN COUNT    asks and changes so often, and prints the code of each and whether to retry
"""

import ctypes
import select
import sys
import threading
from ctypes import POINTER, byref, c_char_p, c_int, c_int64, c_long, c_size_t, c_uint, c_uint32, c_uint64, c_void_p

OK, END = 0, 1
KEY_BAD, HANDLE_BAD, NO_KEY, EXISTS, PRECONDITION = 1034, 1041, 1210, 1212, 1214
TIMEOUT_MS, STALE = 1, 3


class Row(ctypes.Structure):
    _fields_ = [("columns", c_size_t), ("values", POINTER(c_char_p)), ("lengths", POINTER(c_size_t))]


class Applied(ctypes.Structure):
    _fields_ = [("generation", c_uint64), ("removed", c_int64)]


STRINGS = POINTER(c_char_p)


class Match(ctypes.Structure):
    _fields_ = [("key", c_char_p), ("columns", STRINGS), ("patterns", STRINGS), ("count", c_size_t)]


class Effect(ctypes.Structure):
    _fields_ = [("kind", c_int), ("key", c_char_p), ("row", Row)]


class News(ctypes.Structure):
    _fields_ = [
        ("kind", c_int),
        ("node", c_int),
        ("generation", c_uint64),
        ("after", c_uint64),
        ("epoch", c_uint64),
        ("date_ms", c_int64),
        ("uid", c_uint32),
        ("pid", c_uint32),
        ("program", c_char_p),
        ("reason", c_char_p),
        ("why", c_char_p),
        ("place", c_char_p),
        ("effects", POINTER(Effect)),
        ("count", c_size_t),
        ("held", c_void_p),
    ]


NEWS_CHANGE = 5
PATTERNS = [c_char_p, STRINGS, STRINGS, c_size_t]
CALLS = {
    "ccd_attach_static": (c_int, [c_char_p, POINTER(c_void_p)]),
    "ccd_detach_static": (c_int, [c_void_p]),
    "ccd_query_static": (c_int, [c_void_p, *PATTERNS, POINTER(c_void_p)]),
    "ccd_wildchar_static": (c_int, [c_void_p, c_uint32]),
    "ccd_attach": (c_int, [c_char_p, c_char_p, POINTER(c_void_p)]),
    "ccd_detach": (c_int, [c_void_p]),
    "ccd_control": (c_int, [c_void_p, c_int, c_long, c_char_p]),
    "ccd_wildchar": (c_int, [c_void_p, c_uint32]),
    "ccd_query": (c_int, [c_void_p, *PATTERNS, POINTER(c_void_p)]),
    "ccd_query_next": (c_int, [c_void_p, POINTER(Row)]),
    "ccd_free": (c_int, [c_void_p]),
    "ccd_add_unique": (c_int, [c_void_p, c_char_p, STRINGS, c_size_t]),
    "ccd_remove": (c_int, [c_void_p, *PATTERNS, POINTER(c_int64)]),
    "ccd_format": (c_int, [c_void_p, c_char_p, STRINGS, c_size_t]),
    "ccd_remove_fmt": (c_int, [c_void_p, c_char_p]),
    "ccd_restore": (c_int, [c_void_p, c_char_p, c_char_p]),
    "ccd_transact": (c_int, [c_void_p, c_char_p, c_size_t, c_uint, c_char_p, c_char_p, POINTER(Applied)]),
    "ccd_watch": (c_int, [c_void_p, POINTER(Match), c_size_t, c_char_p, c_uint, POINTER(c_void_p)]),
    "ccd_watch_fd": (c_int, [c_void_p, POINTER(c_int)]),
    "ccd_watch_next": (c_int, [c_void_p, c_long, POINTER(News)]),
    "ccd_watch_free": (c_int, [POINTER(News)]),
    "ccd_watch_end": (c_int, [c_void_p]),
    "ccd_perror": (c_char_p, [c_int]),
    "ccd_error_detail": (c_char_p, []),
    "ccd_retry_error": (c_int, [c_int]),
    "ccd_version": (c_char_p, []),
}


def load(path):
    library = ctypes.CDLL(path)
    for name, (result, arguments) in CALLS.items():
        call = getattr(library, name)
        call.restype, call.argtypes = result, arguments
    return library


def strings(*texts):
    return (c_char_p * len(texts))(*[None if text is None else text.encode() for text in texts])


class Ccd:
    def __init__(self, library, run):
        self.library = library
        self.handle = c_void_p()
        self.expect(OK, library.ccd_attach(run.encode(), b"library.py", byref(self.handle)))

    def expect(self, expected, code):
        if code != expected:
            detail = self.library.ccd_error_detail().decode()
            raise AssertionError(f"{code}, expected {expected}: {self.library.ccd_perror(code).decode()}: {detail}")

    def rows(self, handle):
        row, found = Row(), []
        while (code := self.library.ccd_query_next(handle, byref(row))) == OK:
            found.append([ctypes.string_at(row.values[i], row.lengths[i]) for i in range(row.columns)])
        self.expect(END, code)
        self.expect(OK, self.library.ccd_free(handle))
        return found

    def query(self, key, *patterns):
        rows = c_void_p()
        self.expect(OK, self.library.ccd_query(self.handle, key.encode(), None, strings(*patterns), len(patterns), byref(rows)))
        return self.rows(rows)

    def add(self, key, *values):
        return self.library.ccd_add_unique(self.handle, key.encode(), strings(*values), len(values))

    def transact(self, text, request=None, applied=None):
        text = text.encode()
        return self.library.ccd_transact(self.handle, text, len(text), 0, b"a test", request, applied)


def calls(library, run, etc):
    ccd = Ccd(library, run)
    expect, handle = ccd.expect, ccd.handle
    init, rows = c_void_p(), c_void_p()
    expect(OK, library.ccd_attach_static(etc.encode(), byref(init)))
    expect(OK, library.ccd_wildchar_static(init, ord("%")))
    expect(OK, library.ccd_query_static(init, b"NODE", strings("name"), strings("al%"), 1, byref(rows)))
    [[number, name, server]] = ccd.rows(rows)
    assert [number, name] == [b"0", b"alpha"] and len(server) == 16
    expect(OK, library.ccd_detach_static(init))

    expect(OK, library.ccd_control(handle, TIMEOUT_MS, 20000, None))
    expect(OK, library.ccd_format(handle, b"PY", strings("thread", "text"), 2))
    expect(OK, ccd.add("PY", "main", "gr\u00fc\u00df:\u20ac"))
    expect(EXISTS, ccd.add("PY", "main", "gr\u00fc\u00df:\u20ac"))
    assert ccd.query("PY", "m*") == [[b"main", "gr\u00fc\u00df:\u20ac".encode()]]
    request, applied = ctypes.create_string_buffer(64), Applied()
    expect(OK, ccd.transact("if row absent PY:once:1\nadd PY:once:1\n", request, byref(applied)))
    generation = applied.generation
    expect(OK, ccd.transact("if row absent PY:once:1\nadd PY:once:1\n", request, byref(applied)))
    assert (applied.generation, applied.removed) == (generation, -1)
    expect(PRECONDITION, ccd.transact("if row absent PY:once:1\nadd PY:twice:1\n"))

    watch, descriptor = c_void_p(), c_int()
    matches = (Match * 1)(Match(b"PY", None, strings("thread*"), 1))
    expect(OK, library.ccd_watch(handle, matches, 1, None, 0, byref(watch)))
    expect(OK, library.ccd_watch_fd(watch, byref(descriptor)))
    watched = []

    def follow():
        """Every row that the threads add, as it is told."""
        news = News()
        while len(watched) < 400:
            select.select([descriptor.value], [], [], 20)
            while library.ccd_watch_next(watch, 0, byref(news)) == OK:
                if news.kind == NEWS_CHANGE:
                    effects = [news.effects[i].row for i in range(news.count)]
                    watched.extend((row.values[0], int(row.values[1])) for row in effects)
                expect(OK, library.ccd_watch_free(byref(news)))

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    failures = []

    def work(number):
        try:
            for index in range(50):
                expect(OK, ccd.add("PY", f"thread{number}", str(index)))
                assert len(ccd.query("PY", f"thread{number}")) == index + 1
            # The text of a failure is the thread's own.
            expect(NO_KEY, library.ccd_remove_fmt(handle, f"NONE{number}".encode()))
            assert f"NONE{number}".encode() in library.ccd_error_detail()
        except Exception as failure:  # shown below, with the thread's number
            failures.append((number, failure))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    follower.join(30)
    for number in range(8):
        own = [index for name, index in watched if name == f"thread{number}".encode()]
        assert own == list(range(50)), own
    expect(OK, library.ccd_watch_end(watch))
    expect(HANDLE_BAD, library.ccd_watch_end(watch))

    removed = c_int64()
    expect(OK, library.ccd_control(handle, STALE, 1, None))
    assert len(ccd.query("PY", "thread*")) == 400
    expect(OK, library.ccd_wildchar(handle, 0))
    assert ccd.query("PY", "thread*") == []
    expect(OK, library.ccd_remove(handle, b"PY", None, None, 0, byref(removed)))
    assert removed.value == 402
    expect(KEY_BAD, library.ccd_remove_fmt(handle, b""))
    expect(OK, library.ccd_remove_fmt(handle, b"PY"))
    expect(OK, library.ccd_detach(handle))
    expect(HANDLE_BAD, library.ccd_detach(handle))
    print("every call ended as expected", library.ccd_version().decode())


def answers(library, run, count):
    ccd = Ccd(library, run)
    for index in range(int(count)):
        rows = c_void_p()
        if index % 2 == 0:
            code = library.ccd_query(ccd.handle, b"K", None, None, 0, byref(rows))
        else:
            code = ccd.add("K", "value")
        print(code, library.ccd_retry_error(code), flush=True)
        ccd.expect(OK, library.ccd_free(rows))


if __name__ == "__main__":
    {"calls": calls, "answers": answers}[sys.argv[2]](load(sys.argv[1]), *sys.argv[3:])
