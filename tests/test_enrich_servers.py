"""Somebody else's server: `transformers serve` with a tiny model of ours, whose gibberish must not pass."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from okrcell.enrich import job as jobs
from okrcell.enrich.config import EnrichConfig
from okrcell.enrich.ledger import open_ledger
from okrcell.errors import ProviderError


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    """A random Llama of one layer that writes bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model") / "tiny"
    names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<s>", "</s>"]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokens = Tokenizer(models.BPE(vocabulary, []))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(names),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=65536,
        bos_token_id=vocabulary["<s>"],
        eos_token_id=vocabulary["</s>"],
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def served(tiny_model):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [Path(sys.executable).parent / "transformers", "serve", tiny_model]
    flags = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*command, *flags], env=env, **quiet) as server:
        try:
            deadline = time.monotonic() + 120
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                    break
                except OSError:
                    assert server.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1", str(tiny_model)
        finally:
            server.terminate()


@pytest.mark.slow
def test_gibberish_is_answered_counted_and_never_exported(
    served, store, embedder, tmp_path, monkeypatch
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    url, model = served
    config = EnrichConfig(
        writer=f"openai:{model}",
        base_url=url,
        max_tokens=40,
        concurrency=2,
        timeout_s=120.0,
        price_in=1.0,
        price_out=1.0,
        snippets_per_facet=1,
        expression=False,
    )
    job = tmp_path / "job"
    planned = jobs.plan(store, job, config, embedder=embedder)
    with pytest.raises(ProviderError, match="failed its test"):
        jobs.run(job, embedder=embedder)
    done = jobs.run(job, embedder=embedder, canary=False)
    assert done["finished"]
    assert done["calls"] == planned["calls"] + 2  # the two of the test before
    assert set(done["descriptions"]) == {"failed", "rejected"} - (
        set() if planned["without_evidence"] else {"rejected"}
    )
    table = jobs.load_descriptions(job).to_pylist()
    assert {row["text"] for row in table} == {""}
    with open_ledger(job, read_only=True) as ledger:
        for entry in ledger.settled():
            assert entry.state == "failed"
            assert entry.tokens_in > 100 or entry.kind == "canary"
            assert entry.tokens_out <= 256
