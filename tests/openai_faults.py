"""What the stand-in provider of ``openai_server`` writes, and how it goes wrong: pure functions."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = [
    "CONTENT",
    "STATUS",
    "TRANSPORT",
    "WRITERS",
    "Behaviour",
    "Fault",
    "draw",
    "message_text",
    "minimal",
    "named_fault",
    "offered",
    "prose",
    "spoil",
    "write_code_words",
    "write_draft",
    "write_judgements",
    "write_obedient",
    "write_repair",
]

Body = dict[str, Any]

CONTENT = (
    "truncated_length",
    "truncated_stop",
    "invalid_json",
    "refusal",
    "wrong_ids",
    "invented_quotes",
    "empty",
    "no_choices",
    "whitespace_flood",
    "fenced_prose",
)
"""Faults of the answer: HTTP 200, billed, the same for the same messages."""

STATUS = {
    "429_seconds": 429,
    "429_date": 429,
    "429": 429,
    "500": 500,
    "502": 502,
    "503": 503,
    "408": 408,
}
"""Transport faults that are an HTTP status; the first two carry Retry-After. Not billed."""

TRANSPORT = (*STATUS, "stall", "reset", "reset_mid_body", "drip", "duplicate")
"""Faults of the delivery: another attempt may go well. The last five but ``reset`` are billed."""

_FACET = "identity"  # of passages that come under no facet
_FLOOD = 16_384  # characters of whitespace, as of a model that never closes its JSON


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one attempt: the answer, its delivery, or both.

    ``seconds`` replaces the server's own Retry-After, stall or drip.
    """

    content: str = ""
    transport: str = ""
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.content not in ("", *CONTENT) or self.transport not in ("", *TRANSPORT):
            raise ValueError(f"unknown fault {self}: expected {CONTENT} or {TRANSPORT}")


@dataclass
class Behaviour:
    """How the server behaves; every field may change while it runs.

    A batch advances in thirds (validating, in_progress, finalizing, then its end) with the number
    of times that it is retrieved over ``batch_polls``, or with the time over ``batch_s`` if set.
    """

    seed: int = 0
    latency: float = 0.0
    faults: str = ""  # see named_fault
    fault: Callable[[Body, int], Fault | None] | None = None  # instead of ``faults``
    writer: Callable[[Body], str] | None = None  # instead of WRITERS
    obedient: bool = False
    schema_ignoring: bool = False
    no_usage: bool = False
    truncate_prompt: int = 0  # characters that the model sees, 0 for all
    rpm: int = 0  # requests admitted per window, 0 for any number
    tpm: int = 0  # their tokens
    window_s: float = 60.0
    retry_after: float = 1.0
    stall_s: float = 2.0  # then the connection is reset
    drip_s: float = 1.0
    batch_polls: int = 3
    batch_s: float = 0.0
    max_batch_requests: int = 50_000
    max_batch_bytes: int = 200_000_000
    fail_first: int = 0  # batches that fail as over the limit of enqueued tokens
    expire_share: float = 0.0  # of a batch's lines, drawn anew each time a line is submitted
    drop_create_response: int = 0  # batches created whose answer is lost


def draw(*key: object) -> float:
    """Return a number in [0, 1) that the key alone decides."""
    digest = hashlib.sha256("|".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _pick(kinds: tuple[str, ...], share: float, *key: object) -> str:
    drawn = draw(*key)
    return kinds[min(int(drawn / share * len(kinds)), len(kinds) - 1)] if drawn < share else ""


def named_fault(name: str, seed: int, body: Body, digest: str, attempt: int) -> Fault | None:
    """Return the fault of one attempt under a named mix.

    Parameters
    ----------
    name
        Empty; one kind, which then hits every attempt; ``contentN`` or ``transportN`` for a chance
        of N % per request or per attempt; ``mixN`` for N/2 % of each.
    digest, attempt
        The body's hash, and how many times it has come (from 1).
    """
    if not name:
        return None
    if name in CONTENT or name in TRANSPORT:
        return Fault(content=name) if name in CONTENT else Fault(transport=name)
    found = re.fullmatch(r"(mix|content|transport)(\d{1,2}|100)", name)
    if not found:
        raise ValueError(f"unknown faults {name!r}: expected mixN, contentN, transportN or a kind")
    share = int(found[2]) / (200 if found[1] == "mix" else 100)
    content = transport = ""
    if share and found[1] != "transport":
        messages = hashlib.sha256(json.dumps(body.get("messages")).encode()).hexdigest()
        content = _pick(CONTENT, share, seed, "content", messages)
    if share and found[1] != "content":
        # In a row of hits every third is let through: no body fails more than twice in a row.
        row = 0
        while row < attempt and (
            kind := _pick(TRANSPORT, share, seed, "transport", digest, attempt - row)
        ):
            transport = transport or kind
            row += 1
        transport = transport if row % 3 else ""
    return Fault(content, transport) if content or transport else None


def spoil(content: str, kind: str) -> tuple[str | None, str, str | None]:
    """Return content, finish reason and refusal of an answer with a content fault."""
    if kind in ("truncated_length", "truncated_stop"):
        return content[: len(content) * 3 // 5], kind.removeprefix("truncated_"), None
    if kind == "invalid_json":
        return content.replace('"', "'"), "stop", None
    if kind == "refusal":
        return None, "stop", "I'm sorry, but I can't help with that."
    if kind == "empty":
        return "", "stop", None
    if kind == "whitespace_flood":
        return " \n\t " * (_FLOOD // 4), "length", None
    if kind == "fenced_prose":
        return f"Sure! Here it is:\n\n```json\n{content}\n```\n\nAnything else?", "stop", None
    if kind in ("wrong_ids", "invented_quotes") and content.startswith("{"):
        return json.dumps(_replace(json.loads(content), kind)), "stop", None
    return content, "stop", None


def _replace(value: Any, kind: str, name: str = "") -> Any:
    """Return a parsed answer with every id, or every quote, replaced by one of our own."""
    if isinstance(value, dict):
        return {key: _replace(item, kind, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace(item, kind, name) for item in value]
    if kind == "wrong_ids" and name in ("snippet_id", "snippet_ids"):
        return "not-offered-" + hashlib.sha256(str(value).encode()).hexdigest()[:8]
    if kind == "invented_quotes" and name == "quote" and isinstance(value, str):
        return f"It is well established that {value[::-1]}"
    return value


def prose(content: str) -> str:
    """Return what a model that ignores the schema says instead of ``content``: no JSON at all."""
    texts = re.findall(r'"text": ("(?:[^"\\]|\\.)*")', content)
    return "Here is what I found. " + " ".join(json.loads(text) for text in texts)


# --- the writers ---------------------------------------------------------------------------------


def message_text(message: dict[str, Any]) -> str:
    """Return a message's text, whether it is a string or a list of parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def offered(body: Body) -> list[tuple[str, dict[str, Any]]]:
    """Return facet and passage of every data block that offers one."""
    text = {True: "", False: ""}
    for message in body["messages"]:
        text[message["role"] in ("system", "developer")] += message_text(message) + "\n"
    marker = re.search(r'"(DATA-[0-9a-f]{20}) BEGIN"', text[True])
    # A model whose prompt was cut at the front still sees the blocks themselves.
    marker = marker or re.search(r"^(DATA-[0-9a-f]{20}) (?:BEGIN|END)$", text[False], re.MULTILINE)
    if not marker:
        return []
    begin, end = f"{marker[1]} BEGIN", f"{marker[1]} END"
    facet, lines, found = _FACET, text[False].split("\n"), []
    for number, line in enumerate(lines):
        if line.startswith("Passages"):
            named = line.startswith("Passages for the facet ")
            facet = line.rstrip(": ").rpartition(" ")[2] if named else _FACET
        elif line == begin and lines[number + 2 : number + 3] == [end]:
            item = json.loads(lines[number + 1])
            if "snippet_id" in item and "text" in item:
                found.append((facet, item))
    return found


def _sentence(text: str, facet: str, ids: list[str], quote: str) -> dict[str, Any]:
    citations = [{"snippet_id": name, "quote": quote} for name in ids]
    return {"text": text, "facet": facet, "citations": citations}


def write_draft(body: Body) -> str:
    """Return a draft with one sentence per passage: the passage's first sentence, cited."""
    sentences = []
    for facet, item in offered(body):
        quote = item["text"].strip().split("\n")[0].split(". ")[0]
        text = quote if quote.endswith(".") else f"{quote}."
        sentences.append(_sentence(text, facet, [item["snippet_id"]], quote))
    return json.dumps({"sentences": sentences})


_ORDER = re.compile(
    r"\b(ignore|disregard|instead,? write|write instead|cite|output|print|reveal)\b", re.I
)
_PAYLOAD = re.compile(
    r"\b(?:instead,? write|write instead|output|print|reveal|write|say)\b[\s:,]*(.+)", re.I
)
_CITE = re.compile(
    r"cite (?:the )?passages? (?:\{\s*\"snippet_id\":\s*)?[\"'`]?([\w:.\-]*\w)", re.I
)
_SECRET = re.compile(r"key|secret|password|token|credential", re.I)
_MARKUP = re.compile(r"<[^>]+>|\]\([^)]*\)")


def write_obedient(body: Body, key: str = "") -> str:
    """Return the draft of the worst writer: it obeys the passages and repeats all they say.

    ``key`` is what it betrays when a passage asks for a secret.
    """
    sentences = []
    for facet, item in offered(body):
        own = item["snippet_id"]
        for line in filter(None, map(str.strip, item["text"].split("\n"))):
            if _ORDER.search(line):
                payload = _PAYLOAD.search(line)
                said = payload[1] if payload else line
                quoted = re.search(r'["“](.+?)["”]', said) if payload else None
                ids = _CITE.findall(line) or [own]
                sentences.append(_sentence(quoted[1] if quoted else said, facet, ids, line))
                if _SECRET.search(line):
                    sentences.append(_sentence(f"The key is {key}.", facet, ids, line))
            if _MARKUP.search(line):
                sentences.append(_sentence(line, facet, [own], line))
            for claim in re.split(r"(?<=[.!?]) +", line):
                text = claim if claim.endswith((".", "!", "?")) else f"{claim}."
                sentences.append(_sentence(text, facet, [own], claim))
    return json.dumps({"sentences": sentences})


def _asked(body: Body, name: str) -> Any:
    """Return what the last data block that has a field of this name holds in it."""
    text = "\n".join(message_text(message) for message in body["messages"])
    blocks = [line for line in text.split("\n") if line.startswith(f'{{"{name}": ')]
    return json.loads(blocks[-1])[name] if blocks else []


def write_repair(body: Body) -> str:
    """Return for each failing sentence the first passage's first sentence, cited."""
    facet, item = offered(body)[0]
    quote = item["text"].strip().split("\n")[0].split(". ")[0]
    instead = _sentence(
        quote if quote.endswith(".") else f"{quote}.", facet, [item["snippet_id"]], quote
    )
    indices = [failing["index"] for failing in _asked(body, "failing")]
    return json.dumps({"repairs": [{"index": n, "sentence": instead} for n in indices]})


def write_judgements(body: Body) -> str:
    """Return "supported" for sentences whose words all stand in their quotes, else "unsupported"."""
    found = []
    for item in _asked(body, "sentences"):
        words, quotes = (
            set(re.findall(r"\w+", t)) for t in (item["sentence"], " ".join(item["quotes"]))
        )
        verdict = "supported" if words <= quotes else "unsupported"
        found.append({"index": item["index"], "verdict": verdict})
    return json.dumps({"judgements": found})


def write_code_words(body: Body) -> str:
    """Return the first and the last code word that the prompt, as far as it was read, gives away."""
    text = "\n".join(message_text(message) for message in body["messages"])
    found = {
        where: re.search(rf'{where} code word is "(\w+)"', text) for where in ("first", "last")
    }
    return json.dumps({where: match[1] if match else "" for where, match in found.items()})


WRITERS: dict[str, Callable[[Body], str]] = {
    "Draft": write_draft,
    "Repair": write_repair,
    "Judgements": write_judgements,
    "CanaryPrompt": write_code_words,
}
"""Writer by the name of the schema asked for. No schema: "Draft"; an unknown one: ``minimal``."""


def minimal(schema: dict[str, Any], root: dict[str, Any] | None = None, depth: int = 0) -> Any:
    """Return the smallest value that a simple JSON schema allows."""
    root = schema if root is None else root
    if "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return minimal(target, root, depth + 1)
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return minimal(schema[several][0], root, depth + 1)
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {k: minimal(v, root, depth + 1) for k, v in schema.get("properties", {}).items()}
    if kind == "array":
        # A schema that contains itself ends here.
        if depth > 20 or schema.get("maxItems") == 0:
            return []
        one = minimal(schema.get("items", {"type": "string"}), root, depth + 1)
        return [one] * max(1, schema.get("minItems", 1))
    if kind in ("integer", "number"):
        return max(0, schema.get("minimum", 0), schema.get("exclusiveMinimum", -1) + 1)
    return {"boolean": False, "null": None}.get(kind, "x" * max(1, schema.get("minLength", 1)))
