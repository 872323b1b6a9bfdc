"""A judge's endpoint on this machine, for tests."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Endpoint:
    """An OpenAI-compatible endpoint on this machine; `reply` makes of a question the judge's words, or a status."""

    def __init__(self) -> None:
        self.reply: Callable[[str], str | int] = shorter
        self.asked = 0
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.asked += 1
                said = endpoint.reply(body["messages"][0]["content"])
                if isinstance(said, int):
                    self.send_error(said)
                    return
                content = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


def answers(question: str) -> tuple[str, str]:
    found = re.findall(r"<answer_[ab]>\n(.*?)\n</answer", question, re.DOTALL)
    return found[0], found[1]


def shorter(question: str) -> str:
    first, second = answers(question)
    return f"Verdict: {'A' if len(first) < len(second) else 'B'}"
