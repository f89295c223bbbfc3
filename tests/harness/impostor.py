"""A server of another user: greets as NATS does, answers PING, and prints what it hears.

    python3 impostor.py PORT [GREETING [same] [once]]

As root it becomes a user that owns nothing, unless it is to stay the same user. If it is to listen once, it frees the
port when it has a connection, and keeps that.

Its sockets are bound to the loopback device, as any program may do: the kernel does not find them when it is asked for
them by their addresses.
"""

import json
import os
import socket
import sys
import threading

UID = 61234

if os.geteuid() == 0 and "same" not in sys.argv[3:]:
    os.setgroups([])
    os.setgid(UID)
    os.setuid(UID)


def say(*words):
    print(*words, flush=True)


port = int(sys.argv[1])
if len(sys.argv) > 2:
    greeting = sys.argv[2]
else:
    greeting = "INFO " + json.dumps({
        "server_id": "IMPOSTOR", "server_name": "impostor", "version": "2.15.1", "proto": 1, "go": "go1.26",
        "host": "127.0.0.1", "port": port, "headers": True, "max_payload": 1048576, "jetstream": True,
        "client_id": 1, "nonce": "AAAAAAAAAAAAAAA", "xkey": "",
    })


def serve(stream):
    stream.sendall(greeting.strip().encode() + b"\r\n")
    while chunk := stream.recv(65536):
        say("heard", chunk)
        # it does not speak TLS, and says so at once to a client that does
        if b"PING\r\n" in chunk or chunk[0] == 0x16:
            stream.sendall(b"PONG\r\n")


def greet(stream):
    try:
        serve(stream)
    except OSError:
        pass


listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
try:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
except PermissionError:
    # before Linux 5.7
    pass
while True:
    try:
        listener.bind(("127.0.0.1", port))
        break
    except OSError:
        # the server whose port it takes may not be gone yet
        pass
listener.listen()
say("listening")
while True:
    stream, _ = listener.accept()
    if "once" in sys.argv[3:]:
        listener.close()
        say("connected")
        greet(stream)
        break
    say("connected")
    threading.Thread(target=greet, args=(stream,), daemon=True).start()
