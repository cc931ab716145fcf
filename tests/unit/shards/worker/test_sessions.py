"""Sessions of a shard worker: admission, rollback, candidates, and refusals of bad requests."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aitorrent_shards.worker.head import pick_candidates
from aitorrent_shards.worker.kvcache import KvCache
from aitorrent_shards.worker.process import ShardWorker
from aitorrentd.errors import (
    AitorrentError,
    Busy,
    Conflict,
    InvalidParams,
    MethodNotFound,
    NotFound,
    Unavailable,
)
from aitorrentd.wire import Frame
from tests.support.effort import examples
from tests.support.shards.shards_worker import (
    Chain,
    ask,
    load_request,
    load_worker,
    parse_choice,
    random_prompt,
    reference_model,
    token_tail,
)

MakeModel = Callable[..., Path]

# One layer of the tiny model: keys and values, 2 kv heads of 16 float32 values.
LAYER_POSITION_BYTES = 2 * 2 * 16 * 4


@pytest.fixture(scope="module")
def whole(model: MakeModel) -> ShardWorker:
    return load_worker(model(), 0, 6)


def _step(worker: ShardWorker, ids: list[int], pos: int = 0, **changes: Any) -> tuple[Any, Any]:
    fields = {"session": b"s", "pos": pos, "n": len(ids), "want": None, **changes}
    return ask(worker, "step", token_tail(ids), **fields)


def _open(worker: ShardWorker, end: int = 6, **changes: Any) -> None:
    fields = {"session": b"s", "start": 0, "end": end, "max_positions": 64, **changes}
    ask(worker, "open", **fields)


def test_load_in_slices_says_how_far_it_is_and_ends_with_the_same_layers(model: MakeModel) -> None:
    path = model()
    whole, sliced = ShardWorker(), ShardWorker()
    expected, _ = whole(Frame(load_request(path, 0, 6)))
    answers = [sliced(Frame(load_request(path, 0, 6, slice_s=0)))[0]]
    with pytest.raises(Conflict, match="has not loaded a model"):
        ask(sliced, "stats")
    while answers[-1].get("loading"):
        answers.append(ask(sliced, "loading", slice_s=0)[0])
    *told, last = answers
    assert last == expected
    done = [answer["done_bytes"] for answer in told]
    assert done == sorted(set(done))
    assert {answer["total_bytes"] for answer in told} == {done[-1]} == {expected["weight_bytes"]}
    with pytest.raises(Conflict, match="nothing is loading"):
        ask(sliced, "loading", slice_s=0)
    tokens = [Chain([worker], [0, 6]).generate([1, 2, 3], 5) for worker in (whole, sliced)]
    assert tokens[0] == tokens[1]


def test_load_says_what_was_loaded(model: MakeModel) -> None:
    worker = ShardWorker()
    answer, _ = worker(Frame(load_request(model(), 2, 4)))
    weights = 2 * 4 * (2 * 64 + 64 * 64 * 2 + 2 * 32 * 64 + 3 * 96 * 64)
    assert answer.pop("read_bytes") > weights
    assert answer == {
        "layers": 6,
        "start": 2,
        "end": 4,
        "hidden_size": 64,
        "vocab_size": 320,
        "dtype": "float32",
        "max_positions": 512,
        "weight_bytes": weights,
        "family": "llama",
        "kv_bytes_per_position": LAYER_POSITION_BYTES,
        "device": "cpu",
    }


def test_auto_dtype_is_that_of_the_checkpoint(model: MakeModel) -> None:
    worker = ShardWorker()
    path = model(dtype=torch.bfloat16)
    answer, _ = worker(Frame(load_request(path, 0, 6, dtype="auto", device="auto")))
    assert answer["dtype"] == "bfloat16"
    assert answer["weight_bytes"] == answer["read_bytes"] - _header_bytes(path)


@pytest.mark.parametrize("shards", [1, 3])
def test_bytes_of_other_layers_are_never_read(model: MakeModel, shards: int) -> None:
    path = model(hidden=256, intermediate=512, head_dim=64, layers=8, shards=shards)
    load_worker(path, 0, 1)  # what is imported and opened once
    whole = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    for start in (0, 3, 7):
        before = _kernel_read_bytes()
        load_worker(path, start, start + 1)
        read = _kernel_read_bytes() - before
        # A layer is an eighth of the file at most; embeddings and head come with the ends.
        assert read < whole / 5, f"layer {start}: {read} of {whole} bytes"


def _kernel_read_bytes() -> int:
    """Bytes that this process has read from files until now, as the kernel counts them."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def _header_bytes(path: Path) -> int:
    return 8 + int(struct.unpack("<Q", (path / "model.safetensors").read_bytes()[:8])[0])


def test_only_the_bytes_of_the_assigned_tensors_are_read(model: MakeModel) -> None:
    for changes in ({}, {"shards": 3}, {"tied": True}):
        path = model(family="qwen3", **changes)
        headers = sum(
            8 + struct.unpack("<Q", file.read_bytes()[:8])[0] for file in path.glob("*.safetensors")
        )
        total = 0
        for start, end in ((0, 2), (2, 5), (5, 6)):
            worker = ShardWorker()
            answer, _ = worker(Frame(load_request(path, start, end)))
            assert answer["read_bytes"] <= answer["weight_bytes"] + headers
            total += answer["weight_bytes"]
        everything = ShardWorker()
        answer, _ = everything(Frame(load_request(path, 0, 6)))
        shared = 320 * 64 * 4 if "tied" in changes else 0  # first and last stage both need it
        assert total == answer["weight_bytes"] + shared


def test_candidates_are_the_top_of_the_full_logits(model: MakeModel) -> None:
    path = model()
    prompt = random_prompt(30)
    with torch.inference_mode():
        logits = reference_model(path)(torch.tensor([prompt])).logits[0, -1].double()
    worker = load_worker(path, 0, 6)
    for temperature in (0.0, 0.5, 1.0, 3.0):
        chain = Chain([worker], [0, 6])
        choice = chain.feed(prompt, k=10, temperature=temperature)
        best = logits.topk(10)
        assert choice.ids == best.indices.tolist()
        assert choice.logits == pytest.approx(best.values.tolist(), abs=1e-4)
        lse = torch.logsumexp(logits / (temperature or 1.0), 0).item()
        assert choice.lse == pytest.approx(lse, abs=1e-4)
        chain.close()


def test_asking_for_all_candidates_later_gives_those_of_the_step(whole: ShardWorker) -> None:
    chain = Chain([whole], [0, 6])
    few = chain.feed(random_prompt(9), k=5, temperature=0.7)
    header, tail = ask(whole, "candidates", session=chain.session, k=0, temperature=0.7)
    everything = parse_choice(header, tail)
    assert (header["pos"], header["n"]) == (8, 1)
    assert everything.ids[:5] == few.ids
    assert everything.logits[:5] == few.logits
    assert everything.lse == few.lse
    assert sorted(everything.ids) == list(range(320))
    assert math.fsum(math.exp(x / 0.7 - few.lse) for x in everything.logits) == pytest.approx(1)
    chain.close()


def test_candidates_after_a_step_that_wanted_none(whole: ShardWorker) -> None:
    _open(whole)
    header, tail = _step(whole, [5, 6, 7])
    assert header.keys() == {"pos", "n", "took_us"}
    assert len(tail) == 0
    later = parse_choice(*ask(whole, "candidates", session=b"s", k=3))
    ask(whole, "close", session=b"s")
    _open(whole)
    assert parse_choice(*_step(whole, [5, 6, 7], want={"k": 3})) == later
    ask(whole, "close", session=b"s")


def test_equal_logits_stand_in_the_order_of_their_ids() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0, 2.0, -1.0])
    found = pick_candidates(logits, 4, 1.0)
    assert found.ids.tolist() == [1, 3, 2, 4]
    assert pick_candidates(logits, 0, 1.0).ids.tolist() == [1, 3, 2, 4, 5, 0, 6]
    assert pick_candidates(logits, 100, 1.0).ids.tolist() == [1, 3, 2, 4, 5, 0, 6]


@given(
    st.lists(st.sampled_from([-2.0, 0.0, 0.5, 1.0, 7.25]), min_size=1, max_size=40),
    st.integers(0, 50),
)
@settings(max_examples=examples(150))
def test_candidates_equal_a_plain_sort(values: list[float], k: int) -> None:
    found = pick_candidates(torch.tensor(values), k, 2.0)
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))[: k or None]
    assert found.ids.tolist() == order
    assert found.logits.tolist() == [values[i] for i in order]
    assert found.lse == pytest.approx(math.log(math.fsum(math.exp(v / 2) for v in values)))


def test_sessions_are_admitted_by_the_budget(model: MakeModel) -> None:
    budget = 100 * 6 * LAYER_POSITION_BYTES
    worker = load_worker(model(), 0, 6, kv_budget_bytes=budget)
    assert ask(worker, "stats")[0]["free_positions"] == 100
    _open(worker, session=b"a", max_positions=60)
    with pytest.raises(Busy, match="41 positions.*40 are free") as refused:
        _open(worker, session=b"b", max_positions=41)
    assert refused.value.data == {"free_positions": 40}
    _open(worker, session=b"c", max_positions=40)
    stats, _ = ask(worker, "stats")
    assert stats.pop("rss_bytes") > 1 << 20
    assert stats == {
        "sessions": 2,
        "kv_used_bytes": budget,
        "kv_budget_bytes": budget,
        "free_positions": 0,
        "steps": 0,
    }
    ask(worker, "close", session=b"a")
    ask(worker, "close", session=b"a")
    assert ask(worker, "stats")[0]["free_positions"] == 60
    _open(worker, session=b"d", max_positions=120, end=3)
    assert ask(worker, "stats")[0]["free_positions"] == 0


def test_number_of_sessions_is_bounded(model: MakeModel) -> None:
    worker = load_worker(model(), 0, 1)
    for i in range(256):
        _open(worker, session=str(i).encode(), end=1, max_positions=1)
    with pytest.raises(Busy, match="256 sessions are open"):
        _open(worker, session=b"more", end=1, max_positions=1)


def test_opening_twice_is_a_conflict(whole: ShardWorker) -> None:
    _open(whole)
    with pytest.raises(Conflict, match="is open already"):
        _open(whole)
    ask(whole, "close", session=b"s")


def test_more_positions_than_the_context_are_refused(whole: ShardWorker) -> None:
    with pytest.raises(InvalidParams, match="513 positions exceed the model's context of 512"):
        _open(whole, max_positions=513)


def test_layers_that_are_not_loaded_are_refused(model: MakeModel) -> None:
    worker = load_worker(model(), 2, 4)
    for start, end in ((1, 3), (2, 5), (3, 3), (4, 2)):
        with pytest.raises(InvalidParams, match="are not loaded here; 2 to 4 are"):
            _open(worker, start=start, end=end)


def test_step_at_another_position_is_a_conflict_that_says_where_it_is(whole: ShardWorker) -> None:
    _open(whole)
    _step(whole, [1, 2, 3])
    for pos in (0, 2, 4):
        with pytest.raises(Conflict, match=f"position {pos} was sent, 3 is next") as refused:
            _step(whole, [4], pos=pos)
        assert refused.value.data == {"have": 3}
    ask(whole, "close", session=b"s")


def test_steps_beyond_the_reserved_positions_are_refused(whole: ShardWorker) -> None:
    _open(whole, max_positions=4)
    _step(whole, [1, 2, 3])
    with pytest.raises(InvalidParams, match="exceed the 4 that the session was opened for"):
        _step(whole, [4, 5], pos=3)
    _step(whole, [4], pos=3)
    ask(whole, "close", session=b"s")


def test_token_id_outside_the_vocabulary_is_refused_and_changes_nothing(
    whole: ShardWorker,
) -> None:
    _open(whole)
    for bad in (320, 2**31, 2**32 - 1):
        with pytest.raises(InvalidParams, match=f"token id {bad} is not in the vocabulary of 320"):
            _step(whole, [1, bad])
    _step(whole, [1, 319])
    ask(whole, "close", session=b"s")


@pytest.mark.parametrize("length", [0, 1, 255, 257, 1024])
def test_tail_of_the_wrong_length_is_refused(model: MakeModel, length: int) -> None:
    worker = load_worker(model(), 2, 4)
    _open(worker, start=2, end=4)
    with pytest.raises(InvalidParams, match=f"1 rows of 64 .* are 256 bytes, not {length}"):
        ask(worker, "step", b"x" * length, session=b"s", pos=0, n=1, want=None)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_activations_beyond_numbers_are_refused_where_logits_come_of_them(
    model: MakeModel, value: float
) -> None:
    worker = load_worker(model(), 4, 6)
    _open(worker, start=4)
    bad = np.full((2, 64), value, np.float32).tobytes()
    for n in (2, 1):
        with pytest.raises(InvalidParams, match="not finite"):
            ask(worker, "step", bad[: n * 256], session=b"s", pos=0, n=n, want={"k": 1})
        ask(worker, "close", session=b"s")
        _open(worker, start=4)


def test_step_that_fails_leaves_the_session_as_it_was(
    model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = load_worker(model(), 0, 6)
    worker._loaded().span.rows_at_once = 4
    _open(worker)
    calls = []

    def update(self: KvCache, *arguments: Any) -> Any:
        calls.append(self.length)
        if len(calls) == 8:  # in the second piece
            raise RuntimeError("out of memory")
        return original(self, *arguments)

    original = KvCache.update
    with monkeypatch.context() as broken, pytest.raises(RuntimeError, match="out of memory"):
        broken.setattr(KvCache, "update", update)
        _step(worker, [1] * 10)
    assert calls[-1] == 4
    _step(worker, [1, 2, 3])


def test_unknown_sessions_are_not_found(whole: ShardWorker) -> None:
    with pytest.raises(NotFound, match="session 73 is not open"):
        _step(whole, [1])
    with pytest.raises(NotFound, match="is not open"):
        ask(whole, "candidates", session=b"s", k=1)
    assert ask(whole, "close", session=b"s")[0] == {}


def test_requests_before_load_and_a_second_load_are_conflicts(model: MakeModel) -> None:
    worker = ShardWorker()
    with pytest.raises(Conflict, match="has not loaded a model"):
        ask(worker, "stats")
    request = load_request(model(), 0, 2)
    worker(Frame(request))
    with pytest.raises(Conflict, match="already holds layers"):
        worker(Frame(request))


def test_unknown_operations_are_named() -> None:
    with pytest.raises(MethodNotFound, match="'fly'; known operations: load, loading, open"):
        ask(ShardWorker(), "fly")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dtype": "int4"}, "dtype 'int4' is not one of"),
        ({"device": "tpu"}, "device 'tpu' is not"),
        ({"threads": 0}, "threads must be an integer from 1"),
        ({"threads": True}, "threads must be an integer"),
        ({"kv_budget_bytes": -1}, "kv_budget_bytes must be"),
        ({"path": ""}, "path must be a string of 1"),
        ({"path": "a\0b"}, "path must not contain a NUL"),
        ({"end": 7}, "0 to 7 are not a range of this model, which has 6 layers"),
        ({"end": 0}, "0 to 0 are not a range"),
        ({"start": "0"}, "start must be an integer"),
    ],
)
def test_bad_load_fields_are_refused(model: MakeModel, changes: dict[str, Any], says: str) -> None:
    worker = ShardWorker()
    with pytest.raises(InvalidParams, match=says):
        worker(Frame({**load_request(model(), 0, 6), **changes}))
    worker(Frame(load_request(model(), 0, 1)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_unavailable(model: MakeModel) -> None:
    with pytest.raises(Unavailable, match="cuda:3 is not available; set the device"):
        load_worker(model(), 0, 6, device="cuda:3")


_JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=70),
)
_OPS = st.sampled_from(["load", "open", "step", "candidates", "close", "stats", "?"])
_NAMES = st.sampled_from(
    ["session", "start", "end", "max_positions", "pos", "n", "want", "k", "temperature", "length"]
)


@given(_OPS, st.dictionaries(_NAMES, _JUNK | st.just(b"s") | st.integers(0, 70)), st.binary())
@settings(max_examples=examples(200))
def test_random_requests_are_answered_or_refused(
    whole: ShardWorker, op: str, fields: dict[str, Any], tail: bytes
) -> None:
    try:
        header, _ = whole(Frame({"op": op, **fields}, tail))
    except AitorrentError as e:
        assert json.dumps(e.as_map()["message"])
    else:
        assert isinstance(header, dict)
        if op == "open":
            ask(whole, "close", session=fields["session"])


@pytest.mark.parametrize(
    "want", [5, {"k": -1}, {"k": 1, "temperature": math.nan}, {"k": 1, "temperature": -1.0}, {}]
)
def test_bad_wants_are_refused_before_anything_is_computed(whole: ShardWorker, want: Any) -> None:
    _open(whole)
    with pytest.raises(InvalidParams, match=r"want|k must|temperature"):
        _step(whole, [1], want=want)
    _step(whole, [1])
    ask(whole, "close", session=b"s")
