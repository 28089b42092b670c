"""Small random checkpoints of every family that is supported, and what transformers computes for them.

    python tests/golden/parity golden            # writes tests/golden/hub, which is committed
    python tests/golden/parity all FOLDER        # the same and more shapes of every family, for `just parity`
    python tests/golden/parity check HUB FOLDER  # reads what ablate exported: FOLDER/<case> of HUB/<case>

README.md says what is in the files.
"""

import shutil
import sys
from pathlib import Path

import fixed
import cases
import check
import checkpoint
import expect
import old
import pictures
import templates
import tokens

HUB = Path(__file__).parent.parent / "hub"


def make(case, folder, images, every):
    """Looks for weights whose greedy answers rounding cannot change, saves them, and records what they give."""
    tokenizer, ends = tokens.tokenizer(case.tokenizer, templates.TEMPLATES[case.template])
    made = checkpoint.model(case, tokenizer, ends)
    processor = tokenizer if case.whole is None else checkpoint.processor(case, made.config, tokenizer)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    checkpoint.save(case, made, processor, ends, folder)
    reader = expect.Reader(case, folder, images)
    tied = getattr(made.config.get_text_config(), "tie_word_embeddings", made.config.tie_word_embeddings)
    for seed in range(1, 1000):
        fixed.draw(made, seed, fixed.DTYPES[case.dtype], tied)
        if expect.suits(case, made, reader, ends):
            break
    else:
        raise SystemExit(f"{case.name}: no seed gives clear answers")
    for file in folder.glob("model*"):
        file.unlink()
    checkpoint.save(case, made, processor, ends, folder)
    about, tensors = expect.expectations(case, folder, images, every, seed)
    if case.old:
        old.rewrite(case, folder)
        again, same = expect.expectations(case, folder, images, every, seed)
        assert about == again and all(tensors[name].equal(same[name]) for name in tensors), "the old names changed it"
    fixed.write_json(folder / "expected.json", about, width=3)
    fixed.write_tensors(folder / "expected.safetensors", tensors)
    print(f"{case.name}: seed {seed}, {sum(file.stat().st_size for file in folder.iterdir()) // 1024} KiB", flush=True)


def strings(folder, count):
    """How each tokenizer cuts strings of several scripts."""
    found = {"strings": tokens.strings(count)}
    for kind in ["llama2", "llama3", "qwen2", "smolvlm", "idefics3", "internvl", "qwen2vl", "gemma3"]:
        tokenizer, _ = tokens.tokenizer(kind, "")
        found[kind] = [tokenizer(text)["input_ids"] for text in found["strings"]]
        (folder / f"tokenizer-{kind}.json").write_text(tokenizer.backend_tokenizer.to_str(), encoding="utf-8")
    fixed.write_json(folder / "strings.json", found, width=2)


def write(folder, made, every, count, only):
    images = folder / "images"
    pictures.write(images)
    strings(folder, count)
    for case in made:
        if not only or case.name in only:
            make(case, folder / case.name, images, every)


def main():
    match sys.argv[1:]:
        case ["golden", *only]:
            write(HUB, cases.golden(), 12, 100, only)
        case ["all", folder, *only]:
            write(Path(folder), cases.golden() + cases.parity(), 5, 1000, only)
        case ["check", hub, folder]:
            check.exported(cases.golden() + cases.parity(), Path(hub), Path(folder))
        case _:
            raise SystemExit(__doc__)


main()
