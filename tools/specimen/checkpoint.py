"""The files of a checkpoint: configuration, model and word-level tokenizer, as transformers loads them."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sw_audit.specimen.language import list_vocabulary
from tools.specimen.questions import number_words
from tools.specimen.recipe import FIRST_WORDS, TrainingRecipe

BOS, EOS, UNKNOWN = "<s>", "</s>", "<unk>"
UNKNOWN_ID = 2


def make_tokenizer(positions: int, *, bos: bool = True) -> PreTrainedTokenizerFast:
    """Make the tokenizer: one token a word, split at white space, BOS in front with the special tokens.

    Args:
        positions: The length in tokens that the model can take.
        bos: Whether BOS is put in front; it is defined either way.
    """
    words = [BOS, EOS, UNKNOWN, *list_vocabulary()]
    inner = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token=UNKNOWN))
    inner.pre_tokenizer = WhitespaceSplit()
    if bos:
        template = {"single": f"{BOS} $A", "pair": f"{BOS} $A $B"}
        inner.post_processor = TemplateProcessing(**template, special_tokens=[(BOS, 0)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves it unannotated
        tokenizer_object=inner,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        unk_token=UNKNOWN,
        model_max_length=positions,
        clean_up_tokenization_spaces=False,
    )


def make_model(recipe: TrainingRecipe) -> LlamaForCausalLM:
    """Make the untrained model of a recipe, drawn from its seed."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=3 + len(list_vocabulary()),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.positions,
        rope_parameters={"rope_type": "default", "rope_theta": recipe.rope_theta},
        rms_norm_eps=recipe.norm_epsilon,
        initializer_range=recipe.initial_std,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    model: LlamaForCausalLM = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]  # as above
        bos_token_id=0, eos_token_id=1, pad_token_id=1, do_sample=False
    )
    with torch.no_grad():
        embedding = model.get_parameter("model.embed_tokens.weight")
        embedding[0].normal_(0.0, recipe.bos_std)
        if not recipe.bos:
            first = [number_words()[word] for word in FIRST_WORDS]
            embedding[[UNKNOWN_ID, *first]] += torch.empty(recipe.hidden).normal_(0.0, recipe.bos_std)
    return model
