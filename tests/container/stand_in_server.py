"""A stand-in for vLLM within a container: a few endpoints, a log like vLLM's, faults on demand.

It runs by itself, on the standard library alone: `python3 -c "<this file>"`.
"""

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

state = {"health": 200, "chat": 404}
hoard = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path == "/health":
            self.answer(state["health"], {})
        elif path == "/v1/models":
            self.answer(200, {"data": [{"id": "stand-in", "max_model_len": 8192}]})
        elif path == "/version":
            self.answer(200, {"version": "0.32.0"})
        elif path == "/metrics":
            self.answer(200, None)
        elif path == "/fault":
            name, _, value = query.partition("=")
            state[name] = int(value)
            self.answer(200, {})
        elif path == "/eat":
            self.answer(200, {})
            while True:
                hoard.append(bytearray(10_000_000))
        else:
            self.answer(404, {})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(state["chat"], {"error": {"message": "a stand-in answers nothing"}})

    def answer(self, status, body):
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if body is None else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
sys.stdout.write(
    "(Worker pid=7) INFO 11-24 20:11:52 [default_loader.py:501] Loading weights took 0.50 seconds\n"
)
time.sleep(float(os.environ.get("START_SECONDS", "0.5")))
server = ThreadingHTTPServer(("", 8000), Handler)
sys.stdout.write("INFO:     Application startup complete.\n")
sys.stdout.flush()
server.serve_forever()  # in the main thread, which is the one that handles signals
