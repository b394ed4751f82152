"""Requests that are no HTTP, or that two servers would cut in two ways: one
refusal, the connection closed, nothing of them run, and the next one served."""

import errno
import random
import socket

import harness
import kit
import rawhttp
from harness import item

# What a smuggler would have run as a request of its own.
HIDDEN = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def post(*lines, body=b"", end=b"\r\n"):
    """A POST of these header lines, each with its end, and bytes after the head."""
    first = [b"POST /v1/batches HTTP/1.1", b"Host: 127.0.0.1", b"Content-Type: application/json"]
    return b"".join(line + end for line in [*first, *lines]) + end + body


def get(*lines, line=b"GET /livez HTTP/1.1", host=b"Host: 127.0.0.1"):
    return b"".join(part + b"\r\n" for part in [line, host, *lines] if part is not None) + b"\r\n"


CHUNKED = b"Transfer-Encoding: chunked"
NO_CHUNKS = b"0\r\n\r\n" + HIDDEN

# Seen in the head, by us: one problem document.
REFUSED = {
    "length and chunked": post(b"Content-Length: 5", CHUNKED, body=NO_CHUNKS),
    "chunked and length": post(CHUNKED, b"Content-Length: 5", body=NO_CHUNKS),
    "two lengths": post(b"Content-Length: 3", b"Content-Length: 30", body=b"abc" + HIDDEN),
    "two equal lengths": post(b"Content-Length: 3", b"Content-Length: 3", body=b"abc" + HIDDEN),
    "space before the colon": post(b"Content-Length : 41", body=HIDDEN),
    "tab before the colon": post(b"Content-Length\t: 41", body=HIDDEN),
    "space before the coding's colon": post(b"Transfer-Encoding : chunked", body=NO_CHUNKS),
    "folded length": post(b"Content-Length: 3\r\n 7", body=HIDDEN),
    "folded away length": post(b"Content-Length:\r\n 37", body=HIDDEN),
    "length in a folded line": post(b"X: y\r\n Content-Length: 41", body=HIDDEN),
    "folded coding": post(b"Transfer-Encoding:\r\n chunked", body=NO_CHUNKS),
    "folded ordinary header": post(b"X: y\r\n\tz", b"Content-Length: 0", body=HIDDEN),
    "list of codings": post(b"Transfer-Encoding: gzip, chunked", body=NO_CHUNKS),
    "chunked not last": post(b"Transfer-Encoding: chunked, identity", body=NO_CHUNKS),
    "chunked twice in a list": post(b"Transfer-Encoding: chunked, chunked", body=NO_CHUNKS),
    "two codings": post(CHUNKED, CHUNKED, body=NO_CHUNKS),
    "coding identity": post(b"Transfer-Encoding: identity", body=HIDDEN),
    "unknown coding": post(b"Transfer-Encoding: xchunked", body=NO_CHUNKS),
    "quoted coding": post(b'Transfer-Encoding: "chunked"', body=NO_CHUNKS),
    "coding with a parameter": post(b"Transfer-Encoding: chunked;q=1", body=NO_CHUNKS),
    "coding after a vertical tab": post(b"Transfer-Encoding: \x0bchunked", body=NO_CHUNKS),
    "empty coding": post(b"Transfer-Encoding:", body=NO_CHUNKS),
    "coding on HTTP/1.0": b"POST /v1/batches HTTP/1.0\r\n" + CHUNKED + b"\r\n\r\n" + NO_CHUNKS,
    "lines that end in LF": post(b"Content-Length: 0", body=HIDDEN, end=b"\n"),
    "chunked in lines that end in LF": post(CHUNKED, body=NO_CHUNKS, end=b"\n"),
    "one line that ends in LF": post(b"X: y\nContent-Length: 0", body=HIDDEN),
    "request line that ends in LF": get(line=b"GET /livez HTTP/1.1\nX: y"),
    "CR in a value": get(b"X: y\rContent-Length: 41") + HIDDEN,
    "NUL in a value": post(b"X: a\0b", b"Content-Length: 0", body=HIDDEN),
    "NUL in the length": post(b"Content-Length: 0\x0041", body=HIDDEN),
    "NUL in the last value": get(b"X: a\0b") + HIDDEN,
    "NUL made up for by LF": post(b"X: y\nContent-Length: 0\x00", body=HIDDEN),
    "NUL in the target": get(line=b"GET /livez\0/x HTTP/1.1"),
    "NUL in the method": get(line=b"GET\0 /livez HTTP/1.1"),
    "line without a name": get(b": y", b"Content-Length: 41") + HIDDEN,
    "line without a name, hiding": post(b"Content-Length: 0", b": y\r\n" + HIDDEN),
    "two hosts": get(b"Host: elsewhere") + HIDDEN,
    "two equal hosts": get(b"Host: 127.0.0.1") + HIDDEN,
    "space in a name": get(b"Sp ace: y") + HIDDEN,
    "brace in a name": get(b"Br{ce: y") + HIDDEN,
    "name like a length": get(b"Content-Length-Too: 3") + HIDDEN,
    "broken escape": get(line=b"GET /%zz HTTP/1.1") + HIDDEN,
    "escaped NUL": get(line=b"GET /livez%00 HTTP/1.1") + HIDDEN,
}

# libmicrohttpd refuses these by itself, in its own words; where the length or the
# host is wrong it writes the head of its answer twice before it closes.
REFUSED_BELOW = {
    "length with a sign": post(b"Content-Length: +3", body=b"abc" + HIDDEN),
    "negative length": post(b"Content-Length: -1", body=HIDDEN),
    "hexadecimal length": post(b"Content-Length: 0x5", body=b"abcde" + HIDDEN),
    "list of lengths": post(b"Content-Length: 3, 3", body=b"abc" + HIDDEN),
    "length with a space": post(b"Content-Length: 3 3", body=b"abc" + HIDDEN),
    "length with a word": post(b"Content-Length: 3a", body=b"abc" + HIDDEN),
    "length over 64 bits": post(b"Content-Length: 18446744073709551619", body=b"abc" + HIDDEN),
    "length far over": post(b"Content-Length: " + b"9" * 100, body=b"abc" + HIDDEN),
    "chunk over 64 bits": post(CHUNKED, body=b"10000000000000002\r\n{}\r\n" + NO_CHUNKS),
    "chunk far over": post(CHUNKED, body=b"f" * 100 + b"\r\n{}\r\n" + NO_CHUNKS),
    "chunk size with 0x": post(CHUNKED, body=b"0x2\r\n{}\r\n" + NO_CHUNKS),
    "chunk size with a sign": post(CHUNKED, body=b"+2\r\n{}\r\n" + NO_CHUNKS),
    "negative chunk size": post(CHUNKED, body=b"-2\r\n{}\r\n" + NO_CHUNKS),
    "chunk size of no digits": post(CHUNKED, body=b"zz\r\n{}\r\n" + NO_CHUNKS),
    "chunk longer than it says": post(CHUNKED, body=b"2\r\n{}XX\r\n" + NO_CHUNKS),
    "chunk shorter than it says": post(CHUNKED, body=b"5\r\n{}\r\n" + NO_CHUNKS),
    "space after a chunk size": post(CHUNKED, body=b"2 \r\n{}\r\n" + NO_CHUNKS),
    "LF in a chunk extension": post(CHUNKED, body=b"2;a\nXX\r\n{}\r\n" + NO_CHUNKS),
    "no host": get(host=None),
    "line without a colon": get(b"nonsense") + HIDDEN,
    "NUL in a name": get(b"X\0Y: z") + HIDDEN,
    "folded first line": get(host=b" Host: 127.0.0.1") + HIDDEN,
    "no version": b"GET /livez\r\n\r\n" + HIDDEN,
    "HTTP/0.9": b"GET /livez HTTP/0.9\r\n\r\n" + HIDDEN,
    "HTTP/2": get(line=b"GET /livez HTTP/2.0") + HIDDEN,
    "preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN,
    "no HTTP": get(line=b"GET /livez ICAP/1.0") + HIDDEN,
    "space in the target": get(line=b"GET /livez x HTTP/1.1") + HIDDEN,
    "header over the limit": get(b"X: " + b"a" * 40000) + HIDDEN,
    "target over the limit": get(line=b"GET /" + b"a" * 40000 + b" HTTP/1.1") + HIDDEN,
    "headers over the limit": get(*[b"X: a"] * 3000) + HIDDEN,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xab" * 500 + b"\r\n\r\n",
}

SERVED = {
    "empty lines before": b"\r\n\r\n" + get(),
    "empty value": get(b"X:", b"Y: "),
    "white space around a value": get(b"X: \t a b \t "),
    "no space after the colon": get(b"X:y"),
    "all bytes that a value may have": get(b"X: " + bytes(range(0x20, 0x7f)) + bytes(range(0x80, 0x100))),
    "all characters that a name may have": get(b"!#$%&'*+-.^_`|~09AZaz: y"),
    "target with a query": get(line=b"GET /livez?a=b%20c&d=%2F&&e HTTP/1.1"),
    "escaped target": get(line=b"GET /%6civez HTTP/1.1"),
    "long header": get(b"X: " + b"a" * 20000),
    "many headers": get(*[b"X: y"] * 300),
    "cookie": get(b"Cookie: a=b; c=d"),
    "empty body by length": get(b"Content-Length: 0"),
    "HTTP/1.0": b"GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
}


class Case(harness.Case):
    def serves(self):
        answer = self.settled.post({"items": [item(1, self.url("/ok"))]})
        self.assertEqual(answer.status, 200, answer.body)
        self.down.clear()


class Framing(Case):
    def test_ambiguous_heads_get_one_refusal_and_the_connection_closes(self):
        for name, data in REFUSED.items():
            with self.subTest(name):
                answers = rawhttp.exchange(self.settled.port, data)
                self.assertEqual(len(answers), 1, [a.body for a in answers])
                self.assertEqual((answers[0].status, answers[0].json["code"]), (400, "malformed_request"))
                self.assertEqual(answers[0].headers["Content-Type"], "application/problem+json")
                self.assertEqual(answers[0].headers["Connection"], "close")
                self.assertEqual(self.down.ledger(), [])
                self.serves()

    def test_broken_requests_are_refused_and_nothing_behind_them_runs(self):
        for name, data in REFUSED_BELOW.items():
            with self.subTest(name):
                said = rawhttp.exchange_bytes(self.settled.port, data)
                if said:
                    self.assertRegex(said, rb"^HTTP/1\.1 (400|413|414|431|505) [^\0]*\r\nConnection: close\r\n")
                self.assertNotIn(b" 200 ", said)
                self.assertNotIn(b"alive", said)
                self.assertEqual(self.down.ledger(), [])
                self.serves()

    def test_a_refusal_does_not_depend_on_how_the_bytes_arrive(self):
        for name in ("NUL in the length", "length in a folded line", "lines that end in LF", "line without a name"):
            with self.subTest(name), rawhttp.dial(self.settled.port) as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                try:
                    for n in range(len(REFUSED[name])):
                        sock.sendall(REFUSED[name][n:n + 1])
                except (BrokenPipeError, ConnectionResetError):
                    pass
                self.assertTrue(rawhttp.is_closed(sock))
        self.assertEqual(self.down.ledger(), [])
        self.serves()

    def test_a_body_without_its_length_is_refused(self):
        answers = rawhttp.exchange(self.settled.port, post(body=HIDDEN))
        self.assertEqual([(a.status, a.json["code"]) for a in answers], [(411, "length_required")])
        self.serves()

    def test_unusual_but_sound_requests_are_served_and_kept(self):
        last = get(b"Connection: close")
        for name, data in SERVED.items():
            with self.subTest(name):
                answers = rawhttp.exchange(self.settled.port, data + last)
                self.assertEqual([a.status for a in answers], [200, 200], [a.body for a in answers])

    def test_pipelined_requests_are_answered_in_order(self):
        data = get() + get(line=b"GET /nowhere HTTP/1.1") + get(line=b"GET /readyz HTTP/1.1") + get(b"Connection: close") + HIDDEN
        answers = rawhttp.exchange(self.settled.port, data)
        self.assertEqual([a.status for a in answers], [200, 404, 200, 200])

    def test_chunks_and_their_trailers_are_read_to_their_end(self):
        body = harness.encode({"items": [item(1, self.url("/ok"))]})
        chunks = b"".join(b"%x;name=value\r\n%c\r\n" % (1, byte) for byte in body)
        data = post(CHUNKED, body=chunks + b"0\r\nContent-Length: 9\r\nX: y\r\n\r\n") + get(b"Connection: close")
        answers = rawhttp.exchange(self.settled.port, data)
        self.assertEqual([a.status for a in answers], [200, 200], [a.body for a in answers])
        self.assertEqual(len(self.down.ledger()), 1)


class Garbage(Case):
    """The daemon answers or closes, whatever comes, and then serves. Requests that
    stay valid may be run: what they send is checked by the other tests."""

    # Bytes that never end a head would otherwise keep their connection for long.
    config = {"limits": {"header_ms": harness.GIVE_UP_MS, "body_ms": harness.GIVE_UP_MS}}

    def survives(self, data):
        with rawhttp.dial(self.settled.port) as sock:
            try:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
            except (BrokenPipeError, ConnectionResetError):
                pass
            except OSError as err:
                self.assertEqual(err.errno, errno.ENOTCONN)  # reset before the shutdown
            self.assertTrue(rawhttp.is_closed(sock), data)

    def test_random_bytes(self):
        rng = random.Random(1)
        for _ in range(200):
            self.survives(rng.randbytes(rng.randrange(1, 3000)))
        self.serves()

    def test_random_lines(self):
        rng = random.Random(2)
        words = [b"GET ", b"POST ", b"/v1/batches", b"/livez", b" HTTP/1.1", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\0", b":", b" ",
                 b"Host: x\r\n", b"Content-Length: ", CHUNKED, b"Content-Type: application/json\r\n", b"0", b"5", b"\xff", b"{}", b"%"]
        for _ in range(300):
            self.survives(b"".join(rng.choices(words, k=rng.randrange(1, 40))))
        self.serves()

    def test_mutated_requests(self):
        rng = random.Random(3)
        body = harness.encode({"contract": "best_effort", "metadata": {"a": "b"}, "deadline_ms": 500, "retry": {"max_attempts": 1},
                               "items": [item(n, self.url("/ok")) for n in range(3)]})
        sound = [post(b"Content-Length: %d" % len(body), body=body),
                 post(CHUNKED, body=b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)), get(b"Accept: */*"),
                 get(line=b"GET /v1/batches/b_01JD0000000000000000000000 HTTP/1.1")]
        for _ in range(500):
            data = bytearray(rng.choice(sound))
            for _ in range(rng.randrange(1, 6)):
                at = rng.randrange(len(data))
                kind = rng.randrange(4)
                if kind == 0:
                    data[at] = rng.randrange(256)
                elif kind == 1:
                    del data[at:at + rng.randrange(1, 8)]
                elif kind == 2:
                    data[at:at] = data[at:at + rng.randrange(1, 20)]
                else:
                    data[at:at] = rng.randbytes(rng.randrange(1, 4))
            self.survives(bytes(data))
        self.serves()
        kit.until(lambda: self.settled.metrics()["settled_requests_parked"] == 0, "those that left are missed")


if __name__ == "__main__":
    harness.main()
