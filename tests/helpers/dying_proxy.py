"""A connection that breaks: hands bytes on between ssh and a host until so many went there, and ends."""

import os
import selectors
import socket
import sys
import time

host, port, allowed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
link = socket.create_connection((host, port))
watch = selectors.DefaultSelector()
watch.register(0, selectors.EVENT_READ)
watch.register(link, selectors.EVENT_READ)
while allowed > 0:
    for key, _ in watch.select():
        if key.fd == 0:
            data = os.read(0, 16384)
            link.sendall(data)
            allowed -= len(data)
        else:
            data = link.recv(65536)
            os.write(1, data)
        if not data:
            sys.exit()
time.sleep(1)  # what was sent arrives; then the line is dead
