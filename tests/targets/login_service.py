"""A login service under load, with a session to a database outside: nothing leaves its namespaces.

    python3 login_service.py serve FUNCTION PORT DATABASE DATABASE_PORT PAUSE_S
    python3 login_service.py work FUNCTION DATABASE DATABASE_PORT PAUSE_S
    python3 login_service.py users HOST PORT USERS

FUNCTION: argon2id, bcrypt, pbkdf2, scrypt or yescrypt. The service has one long session to the
database, asks it at each login, but not within PAUSE_S seconds of the last time, and hashes the
password. The worker does the same for passwords that the database sends: it accepts no connection.
The users log in without a pause. The database is anything that answers each question.
"""

from __future__ import annotations

import ctypes
import hashlib
import http.client
import http.server
import socket
import sys
import threading
import time
from collections.abc import Callable

Check = Callable[[bytes], object]


def argon2id() -> Check:
    import argon2

    check: Check = argon2.PasswordHasher(parallelism=1).hash
    return check


def bcrypt() -> Check:
    import bcrypt

    return lambda password: bcrypt.hashpw(password, bcrypt.gensalt(10))


def pbkdf2() -> Check:
    return lambda password: hashlib.pbkdf2_hmac("sha256", password, b"salt", 100_000)


def scrypt() -> Check:
    return lambda password: hashlib.scrypt(password, salt=b"salt", n=16384, r=8, p=1)


def yescrypt() -> Check:
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt_gensalt.restype = ctypes.c_char_p
    salt = library.crypt_gensalt(b"$y$", ctypes.c_ulong(5), None, 0)
    lock = threading.Lock()

    def check(password: bytes) -> None:
        with lock:  # crypt(3) is not for several threads
            library.crypt(password, salt)

    return check


FUNCTIONS = {each.__name__: each for each in (argon2id, bcrypt, pbkdf2, scrypt, yescrypt)}


class Database:
    """A session with the database, which is asked after a pause at the earliest."""

    def __init__(self, host: str, port: str, pause_s: str) -> None:
        self._session = socket.create_connection((host, int(port)))
        self._pause_s = float(pause_s)
        self._not_before_s = 0.0

    def ask(self) -> None:
        if time.monotonic() < self._not_before_s:
            return
        self._not_before_s = time.monotonic() + self._pause_s
        self._session.sendall(b"SELECT hash FROM users WHERE name = $1;\n")
        self._session.recv(4096)


def work(function: str, *database: str) -> None:
    check, passwords = FUNCTIONS[function](), Database(*database)
    print("serving", flush=True)
    while True:
        passwords.ask()
        check(b"a password")


def serve(function: str, port: str, *database: str) -> None:
    check, stored = FUNCTIONS[function](), Database(*database)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            password = self.rfile.read(int(self.headers["Content-Length"]))
            stored.ask()
            check(password)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("0.0.0.0", int(port)), Handler)
    server.daemon_threads = True
    print("serving", flush=True)
    server.serve_forever()


def users(host: str, port: str, count: str) -> None:
    for _ in range(int(count)):
        threading.Thread(target=log_in_for_ever, args=(host, int(port)), daemon=True).start()
    time.sleep(1e6)


def log_in_for_ever(host: str, port: int) -> None:
    client = http.client.HTTPConnection(host, port)
    while True:
        try:
            client.request("POST", "/login", b"a password")
            client.getresponse().read()
        except OSError:
            client.close()
            time.sleep(0.1)


COMMANDS: dict[str, Callable[..., None]] = {"serve": serve, "users": users, "work": work}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
