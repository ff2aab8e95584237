"""Cell towers: packed streams against a literal masked transformer, edge cases, operations counted."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from okrcell.train import attention
from okrcell.train.attention import Lengths, _padded, _PlainProducts, attend, multiply
from okrcell.train.batch import DenseCells, PackedCells
from okrcell.train.config import PRESETS, TrainConfig
from okrcell.train.dropout import Dropout
from okrcell.train.flops import cost, fast_precision, flops, peak_flops
from okrcell.train.mlp import standardised
from okrcell.train.towers import build_tower

N_GENES, N_BINS, TEXT = 30, 8, 12
CPU = torch.device("cpu")


def cells_of(known: list[int], hidden: list[int], seed: int = 0) -> PackedCells:
    """Cells of so many known tokens (``<cls>`` among them) and hidden genes, all genes distinct."""
    draw = torch.Generator().manual_seed(seed)
    kg, kb, hg, hb = [], [], [], []
    for k, h in zip(known, hidden, strict=True):
        genes = torch.randperm(N_GENES, generator=draw)[: k - 1 + h].int() + 2
        bins = torch.randint(1, N_BINS + 1, (k - 1 + h,), generator=draw).int()
        kg += [torch.tensor([1], dtype=torch.int32), genes[: k - 1]]
        kb += [torch.tensor([0], dtype=torch.int32), bins[: k - 1]]
        hg.append(genes[k - 1 :])
        hb.append(bins[k - 1 :])
    return PackedCells(
        torch.cat(kg),
        torch.cat(kb),
        torch.tensor(known),
        torch.cat(hg),
        torch.cat(hb),
        torch.tensor(hidden),
    )


def tower_of(**keys: object) -> torch.nn.Module:
    torch.manual_seed(1)
    tower = build_tower(TrainConfig(**{"preset": "tiny", "n_bins": N_BINS, **keys}), N_GENES, TEXT)
    for weight in tower.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return tower


CELLS = cells_of([5, 1, 12, 9, 1], [4, 6, 0, 13, 0])


def literal(tower: torch.nn.Module, cells: PackedCells) -> tuple[torch.Tensor, ...]:
    """One cell at a time, all tokens in one line, an explicit mask: state, GEP, GEPC."""
    states, gep, gepc = [], 0.0, 0.0
    for at in range(len(cells)):
        cell = cells.rows(at, at + 1)
        n, h = int(cell.known_counts), int(cell.hidden_counts)
        tokens = torch.cat([cell.known_genes, cell.hidden_genes])
        bins = torch.cat([cell.known_bins, torch.full((h,), N_BINS + 1, dtype=torch.int32)])
        gene = tower.gene_norm(tower.gene(tokens))
        x = gene + tower.bin()[bins.long()]
        for block in tower.blocks:
            read = block.norm_attention(x) if block.pre else x
            q, k, v = block.qkv(read).view(n + h, 3, block.heads, -1).permute(1, 2, 0, 3)
            score = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5
            score[:, :, n:] = -torch.inf
            x = x + block.out((score.softmax(-1) @ v).transpose(0, 1).flatten(1))
            if block.pre:
                x = x + block.feed(block.norm_feed(x))
            else:
                x = block.norm_attention(x)
                x = block.norm_feed(x + block.feed(x))
        x = tower.norm(x)
        states.append(x[0])
        target = cell.hidden_bins.long() - 1
        gep = gep + F.cross_entropy(tower.gep(x[n:]), target, reduction="sum")
        a_kq = tower.gepc_cell(x[0]).view(N_BINS, -1)
        logits = tower.gepc_query(gene[n:]) @ a_kq.T
        gepc = gepc + F.cross_entropy(logits, target, reduction="sum")
    return torch.stack(states), gep, gepc


@pytest.mark.parametrize(
    "keys",
    [{}, {"norm": "post", "activation": "relu", "values": "continuous"}, {"preset": "small"}],
)
def test_values_and_gradients_are_those_of_the_literal_transformer(keys: dict) -> None:
    tower = tower_of(dropout=0.0, **keys)
    twin = copy.deepcopy(tower)
    state, gep, gepc = literal(twin, CELLS)
    out = tower(CELLS)
    cell = F.normalize(twin.projector(state), dim=-1)
    for ours, theirs in ((out.state, state), (out.cell, cell), (out.gep, gep), (out.gepc, gepc)):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert out.n_hidden == len(CELLS.hidden_genes)
    weight = torch.linspace(-1, 1, TEXT)
    ((out.cell @ weight).sum() + out.gep + out.gepc).backward()
    ((cell @ weight).sum() + gep + gepc).backward()
    for (name, one), two in zip(tower.named_parameters(), twin.parameters(), strict=True):
        assert one.grad is not None, name
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("half", [False, True])
def test_the_cell_is_the_same_without_the_gene_losses(half: bool) -> None:
    tower = tower_of(dropout=0.3).train()
    outputs = []
    for genes in (True, False, True):
        torch.manual_seed(7)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            outputs.append(tower(CELLS, genes=genes))
    full, known, again = outputs
    assert torch.equal(full.cell, known.cell)
    assert torch.equal(full.state, known.state)
    assert torch.equal(full.gep, again.gep)
    assert (known.gep, known.gepc, known.n_hidden) == (0, 0, 0)
    other = tower(CELLS, genes=False).cell
    assert not torch.equal(other, known.cell)


def test_bfloat16_is_close_and_outputs_are_float32() -> None:
    tower = tower_of(dropout=0.0)
    exact = tower(CELLS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = tower(CELLS)
    assert {part.dtype for part in rough[:4]} == {torch.float32}
    assert (exact.cell * rough.cell).sum(1).min() > 0.995
    torch.testing.assert_close(rough.gep, exact.gep, rtol=0.03, atol=0)
    torch.testing.assert_close(rough.gepc, exact.gepc, rtol=0.03, atol=0)


def test_neighbours_in_a_batch_do_not_matter() -> None:
    tower = tower_of().eval()
    with torch.inference_mode():
        together = tower(CELLS, genes=False).cell
        alone = [tower(CELLS.rows(at, at + 1), genes=False).cell for at in range(len(CELLS))]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("known", "hidden"), [([3, 4], [0, 0]), ([1], [5]), ([1, 1], [0, 2])])
def test_all_parameters_get_a_gradient_in_odd_batches(
    known: list[int], hidden: list[int], half: bool
) -> None:
    tower = tower_of()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        out = tower(cells_of(known, hidden))
    (out.cell.sum() + out.gep + out.gepc).backward()
    for name, weight in tower.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
    if not sum(hidden):
        assert float(out.gep.detach()) == float(out.gepc.detach()) == 0


@pytest.mark.parametrize(
    ("keys", "queries"),
    [([5, 40, 1, 33], [0, 39, 7, 64]), ([1, 1], [1, 1]), ([70, 64, 3], [70, 64, 3]), ([3], [0])],
)
@pytest.mark.parametrize("kept", [0, 1 << 20])
def test_plain_products_are_softmax_attention(
    keys: list[int], queries: list[int], kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_KEPT", kept)
    torch.manual_seed(0)
    q = torch.randn(sum(queries), 2, 8, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(sum(keys), 2, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    of_q, of_k = Lengths(torch.tensor(queries), CPU), Lengths(torch.tensor(keys), CPU)
    ours = _PlainProducts.apply(q, k, v, of_q.each, of_k.each)
    theirs = _padded(q, k, v, of_q, of_k)
    torch.testing.assert_close(ours, theirs)
    slope = torch.randn_like(ours)
    for one, two in zip(
        torch.autograd.grad(ours, (q, k, v), slope, retain_graph=True),
        torch.autograd.grad(theirs, (q, k, v), slope),
        strict=True,
    ):
        torch.testing.assert_close(one, two)
    again = torch.autograd.grad(ours, (q, k, v), slope)
    assert all(grad.isfinite().all() for grad in again)


def test_rows_times_the_matrix_of_their_cell() -> None:
    torch.manual_seed(0)
    lengths = Lengths(torch.tensor([2, 0, 3]), CPU)
    rows, each = torch.randn(5, 4), torch.randn(3, 4, 6)
    expected = torch.cat([rows[:2] @ each[0], rows[2:] @ each[2]])
    torch.testing.assert_close(multiply(rows, each, lengths), expected)
    assert lengths.place.tolist() == [0, 1, 6, 7, 8]
    torch.testing.assert_close((lengths.pad(rows) @ each).flatten(0, 1)[lengths.place], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dropout_keeps_the_mean_and_the_gradient_follows_the_mask(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(401, 501, dtype=dtype, requires_grad=True)
    line = torch.zeros(401, 501, requires_grad=True)
    dropout = Dropout(0.1, True, CPU)
    dropped, added = dropout.drop(x), dropout.add(line, x)
    for out in (dropped, added):
        assert float((out == 0).double().mean()) == pytest.approx(0.1, abs=0.003)
        assert float(out.detach().double().mean()) == pytest.approx(1, abs=0.006)
        (slope,) = torch.autograd.grad(out.double().sum(), x)
        torch.testing.assert_close(slope.double(), out.detach().double(), rtol=0.01, atol=0)
    assert not torch.equal(dropped, added)
    state = torch.get_rng_state()
    assert Dropout(0.1, False, CPU).drop(x) is x
    assert torch.equal(torch.get_rng_state(), state)


def test_the_mlp_tower() -> None:
    torch.manual_seed(0)
    tower = build_tower(TrainConfig(preset="mlp"), 20, TEXT, 3)
    cells = DenseCells(torch.rand(6, 20))
    out = tower(cells)
    assert out.cell.shape == (6, TEXT)
    assert out.state.shape == (6, tower.state_dim)
    assert (out.gep, out.gepc, out.n_hidden) == (0, 0, 0)
    torch.testing.assert_close(out.cell.norm(dim=1), torch.ones(6))
    assert not torch.equal(tower(cells).cell, out.cell)
    tower.eval()
    assert torch.equal(tower(cells).cell, tower(cells, genes=False).cell)
    assert tower.types(out.state).shape == (6, 3)


@torch.no_grad()
def test_the_standardised_mlp_tower_leaves_out_what_was_not_measured() -> None:
    torch.manual_seed(0)
    tower = build_tower(TrainConfig(preset="mlp", standardise=True), 20, TEXT).eval()
    whole = torch.rand(6, 20)
    part = whole.clone()
    part[:, 12:] = float("nan")
    made = standardised(part)
    assert (made[:, 12:] == 0).all()
    torch.testing.assert_close(made[:, :12].mean(dim=1), torch.zeros(6))
    torch.testing.assert_close(made[:, :12].std(dim=1, unbiased=False), torch.ones(6))
    # Level and spread of a cell's values do not matter, nor do cells beside it.
    cell = tower(DenseCells(part), genes=False).cell
    torch.testing.assert_close(tower(DenseCells(3 * part + 1), genes=False).cell, cell)
    torch.testing.assert_close(tower(DenseCells(part[2:3]), genes=False).cell, cell[2:3])
    assert not torch.allclose(tower(DenseCells(part.nan_to_num(0.0)), genes=False).cell, cell)
    # A cell of equal values, of one measured gene or of none is a finite vector.
    odd = torch.full((3, 20), float("nan"))
    odd[0], odd[1, 4] = 2.0, 1.0
    assert (standardised(odd) == 0).all()
    assert tower(DenseCells(odd), genes=False).cell.isfinite().all()


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds_and_has_its_parts(preset: str) -> None:
    with torch.device("meta"):
        tower = build_tower(TrainConfig(preset=preset), 50, TEXT)
    assert tower.types is None
    assert tower.projector.in_features == tower.state_dim == PRESETS[preset].dim


@pytest.mark.parametrize(("known", "hidden"), [(64, 32), (96, 64), (32, 0)])
def test_operations_are_those_that_torch_counts(known: int, hidden: int) -> None:
    """In bfloat16 attention is plain products, which torch counts; lengths need no rounding here."""
    config = TrainConfig(preset="tiny", n_bins=N_BINS, dropout=0.0)
    tower = build_tower(config, 200, TEXT)
    genes = torch.arange(2, 2 + known + hidden).int()
    cells = PackedCells(
        genes[:known],
        torch.ones(known, dtype=torch.int32),
        torch.tensor([known]),
        genes[known:],
        torch.ones(hidden, dtype=torch.int32),
        torch.tensor([hidden]),
    )
    counter = FlopCounterMode(display=False)
    with counter, torch.autocast("cpu", dtype=torch.bfloat16):
        tower(cells, genes=hidden > 0)
    assert counter.get_total_flops() == flops(config, known, hidden, TEXT)
    full = cost(config, known, hidden, text_dim=TEXT)
    assert full.train == 3 * full.forward
    assert full.momentum_masked <= full.forward
    assert full.moved > full.kept > 0
    assert full.kept > cost(config, known, hidden, text_dim=TEXT, precision="bf16").kept
    tower = build_tower(TrainConfig(preset="mlp", hvgs=20), 20, TEXT)
    with FlopCounterMode(display=False) as counter:
        tower(DenseCells(torch.rand(1, 20)))
    assert counter.get_total_flops() == flops(TrainConfig(preset="mlp", hvgs=20), 0, 0, TEXT)


def test_the_matrix_rate_is_measured_once() -> None:
    rate = peak_flops("cpu", "fp32")
    assert rate > 1e8
    assert peak_flops("cpu", "fp32") == rate
    assert fast_precision("cpu") in {"fp32", "bf16"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_kernel_is_padded_attention() -> None:
    torch.manual_seed(0)
    queries, keys = [0, 39, 7, 64], [5, 40, 1, 33]
    device = torch.device("cuda")
    of_q, of_k = Lengths(torch.tensor(queries), device), Lengths(torch.tensor(keys), device)
    q = torch.randn(sum(queries), 2, 32, device=device, dtype=torch.bfloat16, requires_grad=True)
    k, v = (
        torch.randn(sum(keys), 2, 32, device=device, dtype=torch.bfloat16, requires_grad=True)
        for _ in range(2)
    )
    ours, theirs = attend(q, k, v, of_q, of_k), _padded(q, k, v, of_q, of_k)
    torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)
    slope = torch.randn_like(ours)
    for one, two in zip(
        torch.autograd.grad(ours, (q, k, v), slope),
        torch.autograd.grad(theirs, (q, k, v), slope),
        strict=True,
    ):
        torch.testing.assert_close(one, two, rtol=5e-2, atol=5e-2)
    tower = tower_of(dropout=0.0)
    exact = tower(CELLS)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        out = tower.to(device)(CELLS.to(device))
    assert (exact.cell * out.cell.cpu()).sum(1).min() > 0.99
