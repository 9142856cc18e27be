"""One backward pass, layer by layer, ranks the scalars of a model as autograd does on the whole."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.streaming import open_streaming
from sw_audit.corpus.windows import Windows, cut_windows
from sw_audit.critical import gradients
from sw_audit.critical.gradients import Ranking, cut_pieces, rank_scalars
from sw_audit.errors import CheckpointError
from sw_audit.policy.policy import ModelPolicy
from sw_audit.specimen.shipped import specimen_path
from sw_audit.testing.families import DENSE, EXPERTS, VOCABULARY, build_random_model, wrap_model

TIED = {"gemma", "gemma2", "gemma3_text", "cohere", "cohere2", "smollm3", "starcoder2", "gpt2", "gpt_bigcode"}
TIED |= {"gpt_neo", "opt", "falcon", "bloom", "mpt"}


def draw_pieces(count: int = 2, length: int = 12) -> Windows:
    chance = torch.Generator().manual_seed(0)
    token_ids = torch.randint(3, VOCABULARY, (count * length,), generator=chance).tolist()
    return cut_windows(token_ids, length, None, 1, count)


def score_whole(checkpoint: Checkpoint, pieces: Windows) -> dict[str, torch.Tensor]:
    """Return the sum over pieces of |dL/dw| by parameter, laid out as stored."""
    model = checkpoint.model
    scores: dict[str, torch.Tensor] = {}
    try:
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        for row in pieces.token_ids:
            model.zero_grad()
            loss = cross_entropy(model(input_ids=row[None]).logits[0, :-1], row[1:]) / len(pieces.token_ids)
            loss.backward()
            for name, parameter in model.named_parameters():
                scores[name] = scores.get(name, torch.zeros(())) + parameter.grad.abs()
    finally:
        model.zero_grad()
        model.requires_grad_(False)
    return scores


@pytest.mark.parametrize("family", [*DENSE, *EXPERTS])
def test_every_score_is_that_of_autograd_on_the_whole_model(family: str) -> None:
    checkpoint = wrap_model(build_random_model(family, 3))
    pieces = draw_pieces()
    before = {name: value.clone() for name, value in checkpoint.model.state_dict().items()}
    ranking = rank_scalars(checkpoint, pieces)
    whole = score_whole(checkpoint, pieces)
    assert ranking.unreached == []
    assert ranking.ranked == sum(parameter.numel() for parameter in checkpoint.model.parameters())
    scores = [one.score for one in ranking.by_gradient]
    assert scores == sorted(scores, reverse=True)
    for one in ranking.by_gradient[:300]:
        parameter = one.parameter
        gradient = parameter.see(whole[parameter.name]).reshape(parameter.shape)[one.index]
        expected = abs(one.value + parameter.offset) * float(gradient)
        if parameter.names and family in TIED:  # what both uses give is added up as magnitudes
            assert one.score >= expected * (1 - 1e-4)
        else:
            assert one.score == pytest.approx(expected, rel=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in checkpoint.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in checkpoint.model.parameters())


def test_what_parameters_ask_of_gradients_is_as_before_also_where_it_fails() -> None:
    checkpoint = wrap_model(build_random_model("llama", 2))
    norm = checkpoint.model.model.norm.weight
    norm.requires_grad_(True)
    with torch.no_grad():
        norm[0] = torch.nan
    with pytest.raises(CheckpointError, match="its loss on the text is not finite"):
        rank_scalars(checkpoint, draw_pieces())
    asking = [name for name, one in checkpoint.model.named_parameters() if one.requires_grad]
    assert asking == ["model.norm.weight"]


@pytest.mark.parametrize("memory", [None, 20_000])
def test_a_checkpoint_that_is_read_layer_by_layer_within_some_memory_gives_the_same_ranking(
    memory: int | None,
) -> None:
    whole = rank_scalars(open_specimen_whole(), draw_specimen_pieces(), products=8)
    streamed = replace(open_streaming(ModelPolicy(source=str(specimen_path()))), memory=memory)
    assert tell(rank_scalars(streamed, draw_specimen_pieces(), products=8)) == tell(whole)


def tell(ranking: Ranking) -> tuple[object, ...]:
    lists = (ranking.by_gradient, ranking.by_product, ranking.feeding)
    told = [[(one.parameter.name, one.index, one.score, one.value) for one in some] for some in lists]
    return *told, ranking.ranked, ranking.unreached, ranking.nats


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "opt", "mixtral", "gpt_oss"])
def test_parameters_that_are_scored_piece_by_piece_have_the_scores_of_the_whole(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = wrap_model(build_random_model(family, 2))
    whole = rank_scalars(checkpoint, draw_pieces(), products=8)
    monkeypatch.setattr(gradients, "_SCORED_AT_ONCE", 100)
    cut = rank_scalars(replace(checkpoint, memory=1000), draw_pieces(), products=8)
    assert (cut.ranked, cut.unreached, cut.nats) == (whole.ranked, whole.unreached, whole.nats)
    for some, others in ((cut.by_gradient, whole.by_gradient), (cut.by_product, whole.by_product)):
        # A product of fewer rows may be rounded in another way.
        assert [one.score for one in some] == pytest.approx([one.score for one in others], rel=1e-5)
        assert {(one.parameter.name, one.index) for one in some[:100]} == {
            (one.parameter.name, one.index) for one in others[:100]
        }
    assert all(one.value == pytest.approx(one.parameter.read(one.index)) for one in cut.by_gradient[::50])


def open_specimen_whole() -> Checkpoint:
    return open_checkpoint(ModelPolicy(source=str(specimen_path())))


def draw_specimen_pieces() -> Windows:
    chance = torch.Generator().manual_seed(0)
    return cut_windows(torch.randint(3, 200, (48,), generator=chance).tolist(), 16, None, 0, 3)


def test_products_are_told_over_the_norm_of_the_residual_stream() -> None:
    checkpoint = wrap_model(build_random_model("llama", 2))
    down = checkpoint.layers[1].down_projections[0]
    with torch.no_grad():
        down.weight[5, 9] = 1000.0
    (largest, *_) = rank_scalars(checkpoint, draw_pieces(), products=4).by_product
    assert (largest.parameter.name, largest.index) == (down.parameter, (5, 9))
    assert largest.value == 1000.0


def test_what_makes_the_neuron_of_a_large_product_fire_is_told() -> None:
    checkpoint = wrap_model(build_random_model("gemma2", 2))
    layer = checkpoint.layers[1]
    down = layer.down_projections[0]
    gate = checkpoint.matrix("model.layers.1.mlp.gate_proj.weight")
    with torch.no_grad():
        down.weight[5, 9] = 1000.0
        gate.weight[9, 33] = 50.0
    feeding = rank_scalars(checkpoint, draw_pieces(), products=4).feeding
    told = {(one.parameter.name, one.index): one.value for one in feeding}
    assert told[gate.parameter, (9, 33)] == 50.0
    norms = [name for name, _ in layer.module.named_parameters() if "norm" in name]
    assert len(norms) == 4
    for name in norms:
        assert told[f"{layer.name}.{name}", (33,)] == float(layer.module.get_parameter(name)[33])


def test_a_loss_on_own_predictions_is_that_of_the_likeliest_tokens() -> None:
    checkpoint, pieces = wrap_model(build_random_model("llama", 2)), draw_pieces()
    logits = checkpoint.model(input_ids=pieces.token_ids).logits[:, :-1].flatten(0, 1)
    expected = float(cross_entropy(logits, logits.argmax(-1)))
    assert rank_scalars(checkpoint, pieces, own_predictions=True).nats == pytest.approx(expected, rel=1e-5)


def test_pieces_are_cut_with_bos_in_front_of_each() -> None:
    windows = Windows(torch.tensor([[1, 2, 3, 4, 5], [1, 6, 7, 8, 9]]), torch.ones(2, dtype=torch.long), bos=1)
    assert cut_pieces(windows, 2, 3).token_ids.tolist() == [[1, 2, 3], [1, 4, 5], [1, 6, 7]]
    shortest = Windows(torch.tensor([[1, 2], [1, 3]]), windows.first_scored, bos=1)
    assert cut_pieces(shortest, 32, 4).token_ids.tolist() == [[1, 2], [1, 3]]
    without = Windows(windows.token_ids, windows.first_scored)
    assert cut_pieces(without, 2, 8).token_ids.tolist() == [[1, 2], [3, 4], [1, 6], [7, 8]]


MEASURED = """
import torch
from dataclasses import replace
from sw_audit.corpus.windows import Windows
from sw_audit.critical.gradients import rank_scalars
from sw_audit.memory import measuring_peak
from sw_audit.testing.families import wrap_model
from transformers import LlamaConfig, LlamaForCausalLM

config = LlamaConfig(
    vocab_size=60000,
    hidden_size=256,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=4,
    tie_word_embeddings=False,
)
checkpoint = replace(wrap_model(LlamaForCausalLM(config)), memory=64 << 20)
pieces = Windows(torch.randint(3, 60000, (4, 32)), torch.ones(4, dtype=torch.long))
with measuring_peak() as peak:
    rank_scalars(checkpoint, pieces, products=8)
print(peak.added / (60000 * 256 * 4))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is known on Linux")
def test_no_copy_of_a_large_embedding_is_made() -> None:
    ran = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True)
    # Gradient, product and score of head and embedding, each as large as they, would be six copies.
    assert float(ran.stdout) < 2
