"""What the scripts of the recipes accept and refuse. `run.sh` runs these tests."""

import io
import json
import sys
import tarfile
import tempfile
import threading
import unittest
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments/recipes"))

import conversations
import lm_eval_scores
import openai_rollout
import records
from blake3 import blake3


def shown(record, text, first=True):
    return ["IMAGE" if part is None else part for part in conversations.parts(record, text, first)]


class Conversations(unittest.TestCase):
    def test_placed_images_stand_in_the_text(self):
        # The cases of src/data/image_placeholders.rs.
        placed = {"images": ["a", "b"]}
        self.assertEqual(shown(placed, ""), [])
        self.assertEqual(shown(placed, "a"), ["a"])
        self.assertEqual(shown(placed, "<image><image>\nWhich?"), ["IMAGE", "IMAGE", "\nWhich?"])
        self.assertEqual(shown(placed, "a <image> b <image> c"), ["a ", "IMAGE", " b ", "IMAGE", " c"])
        self.assertEqual(shown(placed, "a \\<image> tag, <image>"), ["a <image> tag, ", "IMAGE"])
        self.assertEqual(shown(placed, "\\\\<image>"), ["\\<image>"])
        self.assertEqual(shown(placed, "<IMAGE> <image 1>"), ["<IMAGE> <image 1>"])

    def test_one_image_stands_before_the_first_turn(self):
        self.assertEqual(shown({"image": "a"}, "What is <image>?"), ["IMAGE", "What is <image>?"])
        self.assertEqual(shown({"image": "a"}, "And?", first=False), ["And?"])
        self.assertEqual(shown({}, "What?"), ["What?"])

    def test_a_conversation_has_its_earlier_turns(self):
        row = {"images": ["a"], "system": "Be brief.", "history": [{"prompt": "One <image>?", "response": "1"}]}
        roles = [(turn["role"], len(turn["content"])) for turn in conversations.messages(row, "Two?")]
        self.assertEqual(roles, [("system", 1), ("user", 3), ("assistant", 1), ("user", 1)])

    def test_an_item_is_rendered_with_options_and_instruction(self):
        item = {"question": "Which?", "options": ["red", "blue"], "answer_type": "letter"}
        self.assertEqual(conversations.render(item, "direct"), "Which?\nA red\nB blue\nAnswer with the letter.")
        item = {"question": "How many?", "options": None, "answer_type": "number"}
        self.assertEqual(conversations.render(item, "cot"), "How many?\nExplain first, then answer.")
        self.assertEqual(conversations.render(item, "bare"), "How many?")


class Template:
    """A processor whose template is ChatML. The last line break is not part of a response."""

    tokenizer = Namespace(eos_token="<|im_end|>", all_special_tokens=["<|im_start|>", "<|im_end|>"])
    image_token = "<image>"

    def apply_chat_template(self, turns, add_generation_prompt, tokenize):
        found = ""
        for turn in turns:
            texts = [part["text"] if part["type"] == "text" else "<image>\n" for part in turn["content"]]
            found += f"<|im_start|>{turn['role']}\n{''.join(texts)}<|im_end|>\n"
        return found + "<|im_start|>assistant\n" * add_generation_prompt


class Chats(unittest.TestCase):
    def test_a_response_ends_with_its_turn(self):
        chat = conversations.Chat(Template())
        row = {"id": "7", "image": "a"}
        prompt = "<|im_start|>user\n<image>\nHow many?<|im_end|>\n<|im_start|>assistant\n"
        self.assertEqual(chat.prompt(row, "How many?"), prompt)
        self.assertEqual(chat.response(row, "four"), "four<|im_end|>")
        self.assertEqual(chat.response(row, "fo", cut=True), "fo")

    def test_special_tokens_in_texts_are_refused(self):
        chat = conversations.Chat(Template())
        with self.assertRaisesRegex(SystemExit, "`7`: the text has the special token `<image>`: remove this record"):
            chat.prompt({"id": "7", "images": ["a"]}, "<image> is not \\<image>")
        with self.assertRaisesRegex(SystemExit, "the special token `<|im_end|>`"):
            chat.response({"id": "7"}, "a<|im_end|>b")

    def test_a_template_that_writes_no_response_is_refused(self):
        template = Template()
        template.apply_chat_template = lambda turns, **_: "fixed"
        with self.assertRaisesRegex(SystemExit, "the chat template does not write a conversation"):
            conversations.Chat(template)


class Records(unittest.TestCase):
    def test_an_image_is_found_by_the_hash_of_its_pack(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in ["one", "two"]:
                member = Path(folder, "7.png")
                member.write_bytes(name.encode())
                with tarfile.open(f"{folder}/{name}.tar", "w") as pack:
                    pack.add(member, "charts/7.png")
            images = records.Images(folder)
            for name in ["one", "two"]:
                pack = blake3(Path(folder, f"{name}.tar").read_bytes()).hexdigest()[:16]
                self.assertEqual(images.encoded(f"{pack}/charts/7.png"), name.encode())
            with self.assertRaisesRegex(SystemExit, "the image `0/7.png` is in none of the packs"):
                images.encoded("0/7.png")

    def test_threads_read_different_images(self):
        with tempfile.TemporaryDirectory() as folder:
            pack = Path(folder) / "pack.tar"
            with tarfile.open(pack, "w") as tar:
                for number in range(50):
                    member = tarfile.TarInfo(f"{number}.png")
                    member.size = 100_000
                    tar.addfile(member, io.BytesIO(bytes([number]) * member.size))
            images = records.Images(folder)
            place = next(iter(images.packs))
            with ThreadPoolExecutor(8) as pool:
                read = pool.map(lambda number: set(images.encoded(f"{place}/{number % 50}.png")), range(400))
                self.assertEqual(list(read), [{number % 50} for number in range(400)])

    def test_an_unknown_data_set_is_refused(self):
        items = [{"dataset": "chart"}, {"dataset": "doc"}]
        self.assertEqual(records.of_datasets(items, ["doc"]), items[1:])
        self.assertEqual(records.of_datasets(items, []), items)
        with self.assertRaisesRegex(SystemExit, "no item has the data set char"):
            records.of_datasets(items, ["char", "doc"])


class LmEval(unittest.TestCase):
    SAMPLE = {
        "doc_id": 3,
        "doc": {"id": "7", "dataset": "chart", "image": "0/7.png", "answers": ["4", "four"]},
        "target": "['4', 'four']",
        "arguments": {"gen_args_0": {"arg_0": "How many?"}},
        "resps": [["four bars"]],
        "filtered_resps": ["four"],
        "filter": "none",
        "metrics": ["exact_match"],
        "exact_match": 1.0,
    }

    def convert(self, samples, *arguments):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "model").mkdir()
            if samples is not None:
                records.write(f"{folder}/model/samples_my_task_2026-11-30T22-26-29.637147.jsonl", samples)
            written = mock.Mock()
            with mock.patch.object(sys, "argv", ["", folder, *arguments]), mock.patch.object(records, "write", written):
                lm_eval_scores.main()
            return written.call_args[0][1]

    def test_samples_become_scores(self):
        other = self.SAMPLE | {"doc": {"question": "?"}, "target": "B", "filtered_resps": ["[invalid]"], "exact_match": 0}
        expected = [
            {
                "id": "7",
                "dataset": "chart",
                "prompt": "How many?",
                "gold": ["4", "four"],
                "response": "four bars",
                "score": 1.0,
                "answer": "four",
                "image": "0/7.png",
            },
            {
                "id": "3",
                "dataset": "my_task",
                "prompt": "How many?",
                "gold": ["B"],
                "response": "four bars",
                "score": 0.0,
            },
        ]
        self.assertEqual(self.convert([self.SAMPLE, other, self.SAMPLE | {"filter": "strict"}]), expected)

    def test_what_is_missing_is_named(self):
        with self.assertRaisesRegex(SystemExit, "has no samples_.*: was lm_eval run with --log_samples?"):
            self.convert(None)
        with self.assertRaisesRegex(SystemExit, "task `my_task` has no metric `acc`: it has exact_match"):
            self.convert([self.SAMPLE], "--metric", "acc")
        with self.assertRaisesRegex(SystemExit, "task `my_task` has no filter `strict`: it has none"):
            self.convert([self.SAMPLE], "--filter", "strict")
        with self.assertRaisesRegex(SystemExit, "only tasks of the type generate_until have responses"):
            self.convert([self.SAMPLE | {"filtered_resps": [[-1.0, False]]}])


class Endpoint(unittest.TestCase):
    def ask(self, *answers):
        """The sample of a question to a server that gives these answers, status and body, one after another."""
        left = list(answers)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                status, body = left.pop(0)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = Namespace(model="m", key_env=None, max_tokens=8, temperature=0, top_p=1, timeout=10)
        try:
            with mock.patch("time.sleep"):
                client = openai_rollout.Client(f"http://127.0.0.1:{server.server_port}/v1", options)
                return client.sample({"question": "?"}, "How many?", 0)
        finally:
            server.shutdown()
            server.server_close()
            self.assertEqual(left, [])

    ANSWER = {"choices": [{"message": {"content": "4"}, "finish_reason": "stop"}], "usage": {"completion_tokens": 2}}

    def test_a_busy_server_is_asked_again(self):
        sample = self.ask((503, {}), (429, {}), (200, self.ANSWER))
        self.assertEqual(sample, {"text": "4", "finish": "stop", "tokens": 2})

    def test_a_mistake_is_not_repeated(self):
        with self.assertRaisesRegex(SystemExit, r"/chat/completions answered 400: .*no such model"):
            self.ask((400, {"error": "no such model"}))

    def test_a_server_that_stays_busy_is_given_up(self):
        with self.assertRaisesRegex(SystemExit, "answered 503"):
            self.ask(*[(503, {})] * openai_rollout.ATTEMPTS)

    def test_an_answer_without_an_end_or_a_count_is_refused(self):
        filtered = {**self.ANSWER, "choices": [{"message": {"content": None}, "finish_reason": "content_filter"}]}
        with self.assertRaisesRegex(SystemExit, "a response ended with `content_filter`"):
            self.ask((200, filtered))
        with self.assertRaisesRegex(SystemExit, "does not count the tokens of a response"):
            self.ask((200, {"choices": self.ANSWER["choices"]}))

    def test_a_server_that_does_not_start_is_an_error(self):
        with self.assertRaisesRegex(SystemExit, "the server ended with exit code 3"):
            with openai_rollout.Server("sh -c 'exit 3 # {port}'"):
                pass


if __name__ == "__main__":
    unittest.main()
