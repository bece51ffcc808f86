"""A server of one file on this machine that breaks off, lies and errs as it is told."""

import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Serves `body` at every address; its faults are attributes, each used up by the requests that meet it."""

    def __init__(self, body):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.etag, self.requests = body, '"one"', []
        self.cuts = []        # after so many bytes of the answer the connection ends
        self.statuses = []    # answered instead
        self.length = len     # what is said about the body's length; None: nothing
        self.ranges = True
        self.shift = 0        # of the part that is sent from the one asked for

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/toy.zip"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, range_ = self.server, self.headers.get("Range")
        server.requests.append(range_)
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        body, start = server.body, 0
        if range_ and server.ranges and self.headers.get("If-Range") == server.etag:
            start = int(re.fullmatch(r"bytes=(\d+)-", range_)[1])
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start + server.shift}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        if server.etag:
            self.send_header("ETag", server.etag)
        if server.length:
            self.send_header("Content-Length", str(server.length(body[start:])))
        self.end_headers()
        end = start + server.cuts.pop(0) if server.cuts else None
        self.wfile.write(body[start:end])

    def log_message(self, *_):
        pass
