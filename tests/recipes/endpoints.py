"""Runs `distill` and `eval` against a server of the OpenAI protocol, and compares with ablate's own stages."""

import contextlib
import json
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextlib.contextmanager
def counting_proxy(target):
    """Forwards requests to the server at `target`. Yields its own address and the bodies of the requests so far."""
    bodies = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            bodies.append(json.loads(body))
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(target.removesuffix("/v1") + self.path, body, headers)
            try:
                with urllib.request.urlopen(request) as response:
                    status, answer = response.status, response.read()
            except urllib.error.HTTPError as error:
                status, answer = error.code, error.read()
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", bodies
    finally:
        server.shutdown()
        server.server_close()


def write_texts(path):
    """Writes rows without images, for servers that take none."""
    with open(path, "w", encoding="utf-8") as file:
        for number in range(10):
            question = f"What is {number} + 1?\nExplain first, then answer."
            response = f"One more than {number}.\n### Answer: {number + 1}"
            turns = [{"from": "human", "value": question}, {"from": "gpt", "value": response}]
            row = {"id": str(number), "answer": str(number + 1), "answer_type": "number", "conversations": turns}
            print(json.dumps(row), file=file)


def has_image(body):
    return "image_url" in json.dumps(body["messages"])


def responses_of(scores):
    return {score["id"]: score["response"] for score in scores}


class Endpoint:
    """The stages of endpoints.toml at a server. `run` runs stages, `read` reads rows of results."""

    def __init__(self, name, server, model, run, read):
        self.name, self.server, self.model, self.run, self.read = name, server, model, run, read

    def requests(self, *arguments):
        """The bodies of the requests of a run."""
        # Each run has another address. Replies belong to the model's name.
        with counting_proxy(self.server) as (url, bodies):
            self.run("--set", f"vars.url={url}", "--set", f"vars.model={self.model}", *arguments)
        return bodies

    def check(self, images, compare_texts):
        """Runs the stages, with or without images, and checks responses and numbers of requests."""
        distillations = {"distill": 48, "distill_texts": 10} if images else {"distill_texts": 10}
        inputs = ["given", "none"] if images else ["none"]
        stages = [*distillations, *(f"{stage}@image={image}" for stage in ["eval", "remote"] for image in inputs)]
        bodies = self.requests(*stages)
        # Without images some questions are equal, and so are their requests.
        assert len(bodies) == len({json.dumps(body) for body in bodies}), "a request was sent twice"
        assert sum(map(has_image, bodies)) == (48 + 32 if images else 0)
        texts = [body for body in bodies if not has_image(body)]
        assert 10 < len(texts) <= 10 + 32, len(texts)
        for stage, count in distillations.items():
            assert self.samples(stage) == count
        for image in inputs:
            responses = [responses_of(self.read(f"{stage}@image={image}/scores.jsonl")) for stage in ["eval", "remote"]]
            compare_texts(f"{self.name} with image = {image}", *responses)
        if images:
            assert self.requests("rollouts") == [], "the requests of `remote`"
            rollouts = {row["item"]["id"]: row["samples"][0]["text"] for row in self.read("rollouts/rollouts.jsonl")}
            compare_texts(f"{self.name}, sampled again", responses_of(self.read("remote@image=given/scores.jsonl")), rollouts)
            judged = self.requests("judged")
            assert 0 < len(judged) <= len(rollouts) and not any(map(has_image, judged)), len(judged)
            assert len(self.read("judged/judged.jsonl")) == len(rollouts)
        force = [argument for stage in distillations for argument in ("--force", stage)]
        assert self.requests(*stages, *force) == []
        more = self.requests(*stages, "--set", "vars.samples=3")
        questions = sum(distillations.values())
        # A server may give one choice whatever `n` is.
        assert questions <= len(more) <= 2 * questions, len(more)
        for stage, count in distillations.items():
            assert self.samples(stage) == 3 * count
        assert self.requests(*stages, *force, "--set", "vars.samples=3") == []
        print(f"{self.name}: {len(bodies)} requests, and {len(more)} for two more samples of {questions} questions")

    def samples(self, stage):
        """The number of responses that a distillation kept and rejected."""
        kept, rejected = self.read(f"{stage}/items.jsonl"), self.read(f"{stage}/rejects.jsonl")
        assert kept, stage
        return len(kept) + sum(len(row["verdicts"]) for row in rejected)
