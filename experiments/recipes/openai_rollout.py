"""Samples responses from an OpenAI-compatible server (vLLM, llama.cpp, `transformers serve`): reads `items.jsonl` and
`images/`, writes `rollouts.jsonl`. Needs no package except blake3.

    python openai_rollout.py --model NAME --url http://localhost:8000/v1
    python openai_rollout.py --model NAME --serve "vllm serve NAME --port {port}"
"""

import argparse
import base64
import contextlib
import json
import os
import shlex
import socket
import subprocess
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import records
from conversations import TEMPLATES, image_keys, messages, render

ATTEMPTS = 5
# The server is busy or starting; everything else is a mistake in the request.
TRANSIENT = {408, 409, 425, 429, 500, 502, 503, 504}
KINDS = {b"\x89PNG": "png", b"\xff\xd8": "jpeg", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp"}


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="name of the model at the server")
    server = parser.add_mutually_exclusive_group(required=True)
    server.add_argument("--url", help="base address of a server that runs")
    server.add_argument("--serve", help="command that starts a server at the port that replaces {port}")
    parser.add_argument("--key-env", help="environment variable with the API key")
    parser.add_argument("--template", choices=TEMPLATES, default="cot")
    parser.add_argument("--datasets", nargs="+", default=[], help="only items of these data sets")
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--timeout", type=float, default=300, help="seconds of one request")
    return parser.parse_args()


class Server:
    """A server that runs as long as it is needed."""

    def __init__(self, command):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1"
        self.command = shlex.split(command.replace("{port}", str(port)))

    def __enter__(self):
        self.process = subprocess.Popen(self.command)
        while not self.answers():
            if self.process.poll() is not None:
                raise SystemExit(f"the server ended with exit code {self.process.returncode}: {self.command}")
            time.sleep(0.5)
        return self.url

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def answers(self):
        try:
            with urllib.request.urlopen(f"{self.url}/models", timeout=5):
                return True
        except OSError:
            return False


class Client:
    def __init__(self, url, options):
        self.url = url.rstrip("/") + "/chat/completions"
        self.options, self.images, self.seed = options, records.Images(), records.seed()
        self.headers = {"Content-Type": "application/json"}
        if options.key_env:
            self.headers["Authorization"] = f"Bearer {os.environ[options.key_env]}"

    def sample(self, item, prompt, number):
        keys = iter(image_keys(item))
        content = [
            {"type": "image_url", "image_url": {"url": self.data_url(next(keys))}} if part["type"] == "image" else part
            for part in messages(item, prompt)[0]["content"]
        ]
        body = {
            "model": self.options.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.options.max_tokens,
            "temperature": self.options.temperature,
            "top_p": self.options.top_p,
            "seed": (self.seed + number) % 2**31,
        }
        answer = self.post(body)
        if "usage" not in answer:
            raise SystemExit(f"{self.url} does not count the tokens of a response (`usage`)")
        choice = answer["choices"][0]
        # "stop" and "length" are the protocol's words too. Other reasons, such as a content filter, end no response.
        if choice["finish_reason"] not in ("stop", "length"):
            raise SystemExit(f"a response ended with `{choice['finish_reason']}`: {prompt!r}")
        return {
            "text": choice["message"]["content"] or "",
            "finish": choice["finish_reason"],
            "tokens": answer["usage"]["completion_tokens"],
        }

    def data_url(self, key):
        encoded = self.images.encoded(key)
        kind = next((name for start, name in KINDS.items() if encoded.startswith(start)), None)
        if kind is None:
            raise SystemExit(f"the image `{key}` has no known format")
        return f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}"

    def post(self, body):
        request = urllib.request.Request(self.url, json.dumps(body).encode(), self.headers)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with urllib.request.urlopen(request, timeout=self.options.timeout) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                reason = f"{error.code}: {error.read(2000).decode(errors='replace')}"
                if error.code not in TRANSIENT:
                    attempt = ATTEMPTS
            except OSError as error:
                reason = str(error)
            if attempt == ATTEMPTS:
                raise SystemExit(f"{self.url} answered {reason}")
            time.sleep(2**attempt)


def rollouts(client, items):
    options = client.options
    prompts = [render(item, options.template) for item in items]
    with ThreadPoolExecutor(options.concurrency) as pool:
        # Numbered over all questions, so that no two samples have the same seed.
        samples = [
            [
                pool.submit(client.sample, item, prompt, index * options.samples + number)
                for number in range(options.samples)
            ]
            for index, (item, prompt) in enumerate(zip(items, prompts))
        ]
        return [
            {"item": item, "prompt": prompt, "samples": [sample.result() for sample in found]}
            for item, prompt, found in zip(items, prompts, samples)
        ]


def main():
    options = arguments()
    items = records.of_datasets(records.read("items.jsonl"), options.datasets)
    with Server(options.serve) if options.serve else contextlib.nullcontext(options.url) as url:
        records.write("rollouts.jsonl", rollouts(Client(url, options), items))


if __name__ == "__main__":
    main()
