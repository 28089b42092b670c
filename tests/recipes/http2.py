"""A server of the OpenAI protocol that speaks HTTP/2 over TLS, and logs version and client of each request.

`python http2.py PORT LOG` serves.
"""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

TLS = Path(__file__).resolve().parents[1] / "golden/tls"


def application(log):
    async def answer(scope, receive, send):
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        with open(log, "a", encoding="utf-8") as file:
            print(json.dumps([scope["http_version"], scope["client"][1]]), file=file)
        choice = {"message": {"content": "Seen.\n### Answer: 2"}, "finish_reason": "stop"}
        body = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 5}}).encode()
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return answer


@contextlib.contextmanager
def http2_server(log):
    """Yields the address of a running server, and the variable that names its certificate."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, __file__, str(port), log])
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        yield f"https://127.0.0.1:{port}/v1", {"SSL_CERT_FILE": str(TLS / "certificate.pem")}
    finally:
        process.terminate()
        process.wait()


def main():
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    port, log = sys.argv[1:]
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.certfile, config.keyfile = str(TLS / "certificate.pem"), str(TLS / "key.pem")
    config.loglevel = "warning"
    asyncio.run(serve(application(log), config))


if __name__ == "__main__":
    main()
