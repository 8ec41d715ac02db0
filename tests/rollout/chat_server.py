"""A small server that speaks the chat-completions protocol, well or badly, on a port of its own."""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-Sawyer0Secret1Key2"


def completion(text: str, reason: str | None = "stop", **choice: Any) -> dict[str, Any]:
    """The body of a good reply."""
    message = {"role": "assistant", "content": text}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": reason, **choice}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }


def echo(request: dict[str, Any]) -> dict[str, Any]:
    """The last turn and the seed, as an answer."""
    return completion(f"{request['messages'][-1]['content']}/{request.get('seed')}")


class ChatServer:
    """Answers by a function of the request: a JSON value, `(status, headers, text)`, or None to hang up.

    Attributes:
        requests: bodies received, in order.
        headers: the headers of each.
        most_at_once: most requests that were being answered at a time.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], Any] = echo, delay: float = 0.0) -> None:
        self.answer, self.delay = answer, delay
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.most_at_once = self._now = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # or the body waits 40 ms for the client to acknowledge the headers

            def do_POST(self) -> None:
                server._serve(self)

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *args: Any) -> None:
                pass  # a client that went away

        self._http = Server(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self._lock:
            self.requests.append(body)
            self.headers.append({name.lower(): value for name, value in handler.headers.items()})
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        time.sleep(self.delay)
        try:
            reply = self.answer(body)
        finally:
            with self._lock:
                self._now -= 1
        if reply is None:
            handler.close_connection = True
            return
        status, headers, text = reply if isinstance(reply, tuple) else (200, {}, json.dumps(reply))
        data = text.encode()
        try:
            handler.send_response(status)
            for name, value in {"content-type": "application/json", **headers}.items():
                handler.send_header(name, value)
            handler.send_header("content-length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)
        except OSError:
            pass  # the client has gone


def refusal(status: int, message: str, headers: dict[str, str] | None = None, **error: Any) -> tuple[int, dict, str]:
    return status, headers or {}, json.dumps({"error": {"message": message, **error}})


class FakeTime:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
