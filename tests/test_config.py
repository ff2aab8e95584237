"""Configuration: frozen, no unknown keys, flags over file, a stable fingerprint."""

import pytest
from pydantic import ValidationError

from okrcell.config import fingerprint, load_config
from okrcell.corpus.config import CorpusConfig
from okrcell.errors import ConfigError


def write(path, text):
    path.write_text(text)
    return path


def test_flags_override_the_file_and_none_means_not_given(tmp_path):
    path = write(
        tmp_path / "a.toml", "[corpus]\nseed = 3\naccept_score = 0.5\n[train]\nepochs = 2\n"
    )
    config = load_config(CorpusConfig, "corpus", path, {"seed": 7, "accept_score": None})
    assert (config.seed, config.accept_score) == (7, 0.5)


@pytest.mark.parametrize(
    ("text", "where", "said"),
    [
        ("[corpus]\nsed = 1\n", "[corpus] sed", "did you mean 'seed'?"),
        ("[korpus]\nseed = 1\n", "[korpus]", "did you mean 'corpus'?"),
        ("[corpus]\nseed = 'x'\n", "[corpus] seed", "valid integer"),
        ("corpus = 1\n", "[corpus]", "table of keys"),
        ("[corpus\n", "a.toml", "unreadable TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, where, said):
    with pytest.raises(ConfigError) as caught:
        load_config(CorpusConfig, "corpus", write(tmp_path / "a.toml", text))
    assert where in str(caught.value)
    assert said in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_config(CorpusConfig, "corpus", tmp_path / "none.toml")


def test_frozen_and_fingerprint():
    config = CorpusConfig()
    with pytest.raises(ValidationError):
        config.seed = 1
    assert fingerprint(config) == fingerprint(CorpusConfig())
    assert fingerprint(config) != fingerprint(config.replace(seed=1))
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
