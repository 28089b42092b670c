# Shortcuts; everything here is a plain cargo command.

default:
    @just --list

# What a change must pass.
ci:
    bash .ci/run

# The default experiment.
run *args:
    cargo run --release -- run experiments/reasoner.toml {{args}}

# Runs the default experiment and all tiny studies, saves their results in docs/results, and writes the numbers into README.md
# and docs/paper.md. The tests fail until then if a kind's version, an experiment or the statistics change.
paper-tables:
    cargo run --release -- run experiments/reasoner.toml
    cargo run --release -- run experiments/tiny/*.toml
    UPDATE_RESULTS=1 cargo test --release --test e2e documents::

test *args:
    cargo test --release {{args}}

# The scaled-down experiment that the tests run: the whole graph in seconds.
smoke *args:
    cargo run --release -- run experiments/smoke.toml {{args}}

lint:
    cargo fmt --all --check
    cargo clippy --release --all-targets -- -D warnings

# A build for NVIDIA GPUs (docs/cuda.md); fetches a compiler if there is none.
cuda *args:
    src/nn/cuda/with-toolkit.sh cargo build --release --features cuda {{args}}

# Ten minutes of fuzzing, the eleven targets one after another. A failure prints its seed.
fuzz seconds="60":
    ABLATE_FUZZ_SECONDS={{seconds}} cargo test --release --lib -- fuzz:: --test-threads 1 --nocapture

# Golden numbers of the model, from PyTorch; pixels, ids and chats, from transformers and Pillow 13; layouts of data, from
# datasets, pandas and polars (needs python3 with the packages of tests/golden/requirements.txt).
golden:
    python3 tests/golden/make_golden.py
    python3 tests/golden/make_pixels.py
    python3 tests/golden/make_chat.py
    python3 tests/golden/make_formats.py
    python3 tests/golden/make_layouts.py

# Compares ablate with transformers, TRL and PEFT on random checkpoints of every family (needs python3 and PyPI).
parity:
    bash tests/golden/parity.sh

# Runs experiments/recipes on a tiny random checkpoint and compares TRL, transformers, a server and lm-evaluation-harness with
# ablate's own stages (needs python3 and PyPI).
test-recipes:
    bash tests/recipes/run.sh

# Runs the tests of the CUDA build on an emulated GPU; `just test-gpu real` on the machine's own.
test-gpu *args:
    tests/emulated-gpu/run.sh {{args}}

# Reads data sets as PyPI packages ship them: easy-VQA and scikit-learn's digits (needs python3 and PyPI).
test-packages:
    cargo build --release
    bash tests/packages/run.sh target/release/ablate

# Reads event files, CSV, LaTeX, model cards, completions, manual pages and the wheel with the tools that they are for (needs
# python3, PyPI, and Debian's packages of LaTeX, zsh, fish and mandoc).
test-tools:
    bash tests/tools/run.sh

# Shares results through Ceph's S3 gateway (needs root for Debian's packages, python3 and PyPI).
test-remote:
    cargo build --release
    bash tests/remote/run.sh target/release/ablate

# Opens the pages of reports in headless Chromium (needs node 20 and npm; installs Debian's Chromium if there is none).
test-browser:
    cargo build --release
    bash tests/browser/run.sh target/release/ablate

# Runs experiments through a real Slurm on this machine, and kills jobs, nodes, the controller and the driver (needs root and python3;
# installs Debian's slurm-wlm and munge). Names select tests: `just test-cluster Driver`.
test-cluster *args:
    cargo build --release
    bash tests/cluster/run.sh target/release/ablate {{args}}

# Overhead of the engine compared with ninja, doit, Snakemake and DVC (needs python3 and PyPI; see benches/README.md).
bench-engine *args:
    cargo build --profile dist
    python3 benches/engine.py {{args}}

# Speed of hashing a folder compared with b3sum.
bench-hash *args:
    cargo build --profile dist
    python3 benches/hash.py {{args}}

# Time for a report of many models and data sets.
bench-report *args:
    cargo build --profile dist
    python3 benches/report.py {{args}}

# What 50 open pages of `ablate serve` cost a training.
bench-serve *args:
    cargo build --profile dist
    python3 benches/serve.py target/dist/ablate {{args}}

# Time to submit 1,000 jobs to Slurm, and the driver's CPU time while they wait (needs root; installs Debian's slurm-wlm and munge).
bench-cluster *args:
    cargo build --profile dist
    python3 benches/cluster.py target/dist/ablate {{args}}

# 2 GiB to and from S3 compared with the AWS command line (needs root for Debian's packages, python3 and PyPI).
bench-remote *args:
    cargo build --profile dist
    python3 benches/remote.py target/dist/ablate {{args}}

# Training and rollouts compared with PyTorch and transformers (needs python3 and PyPI; builds what it measures).
bench-model *args:
    python3 benches/model.py {{args}}

# A GPU against the CPU, and beside PyTorch on the same card (needs a GPU and a python3 with torch and transformers).
bench-cuda *args:
    src/nn/cuda/with-toolkit.sh cargo build --profile dist --features cuda --example bench-model --example bench-cost
    python3 benches/cuda.py {{args}}

# Registers, shared memory and spills of every CUDA kernel: docs/cuda-kernels.md. `--check` compares with it.
kernel-table *args:
    src/nn/cuda/with-toolkit.sh python3 tests/kernel_table.py {{args}}

# Coverage and false positives of the report's statistics, by simulation: the table in docs/statistics.md (15 minutes).
simulate repetitions="1000":
    ABLATE_REPETITIONS={{repetitions}} cargo test --release -p ablate-report simulate -- --ignored --nocapture
