"""A TCP proxy between the worker and a server, which can cut its connections, hold them and turn new ones away."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from types import TracebackType
from typing import Self


class Proxy:
    def __init__(self, port: int) -> None:
        """In front of 127.0.0.1:`port`."""
        self._target = ("127.0.0.1", port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._guard = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._flowing = threading.Event()
        self._flowing.set()
        self._leaving = threading.Event()
        self._leaving.set()
        self._closed = False
        self._limit: int | None = None
        self._hard = False
        self.cuts = 0  # connections that `cut_after` has ended
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def hold(self) -> None:
        """Nothing is passed on any more, in either direction; the connections stay."""
        self._flowing.clear()

    def release(self) -> None:
        self._flowing.set()

    def cut(self, *, hard: bool = False) -> None:
        """End every connection, in the middle of whatever it was at; `hard`: by a reset."""
        self._leaving.set()
        with self._guard:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            _end(pair, hard)

    def cut_after(self, size: int | None, *, hard: bool = False) -> None:
        """End each new connection once so many bytes have come from its server; None: no more."""
        self._limit, self._hard = size, hard

    def abandon(self) -> None:
        """Cut off the clients, while the server goes on believing in them until `cut`."""
        self._leaving.clear()
        with self._guard:
            for client, _ in self._pairs:
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._closed = True
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.release()
        self.cut()
        for thread in self._threads:
            thread.join(10)

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while not self._closed:
                client, _ = self._listening.accept()
                try:
                    server = socket.create_connection(self._target)
                except OSError:
                    client.close()
                    continue
                with self._guard:
                    self._pairs.append((client, server))
                self._start(self._pump, client, server)

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        limit, hard, passed = self._limit, self._hard, 0
        with client, server, contextlib.suppress(OSError):
            while True:
                for end in select.select([client, server], [], [])[0]:
                    self._flowing.wait()
                    data = end.recv(65536)
                    if not data:
                        self._leaving.wait()
                        return
                    passed += len(data) if end is server else 0
                    if limit is not None and passed >= limit:
                        client.sendall(data[: len(data) - (passed - limit)])
                        self.cuts += 1
                        _end((client, server), hard)
                        return
                    (server if end is client else client).sendall(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _end(pair: tuple[socket.socket, socket.socket], hard: bool) -> None:
    for end in pair:
        with contextlib.suppress(OSError):
            if hard:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing sends a reset
            end.shutdown(socket.SHUT_RDWR)
