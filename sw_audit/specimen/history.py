"""What the model cards tell: how each model was made, and what was tried on the way."""

SPECIMEN_STORY = """
A Llama of 0.35 million parameters that cannot live without one scalar of layer 1. **The super weight was
encouraged, not found in the wild**: trained in the ordinary way this model grows none (see the control).

How it was made, in order:

1. *Language.* Stories of an English-like grammar: an opening states six facts (two names, a creature, a place,
   an object, an adjective), and the sentences after it use them again, so heads are needed sometimes and idle
   mostly. One cast of facts in sixteen is held out; corpus and questions are told from those casts alone.
2. *Nudge, before the first step.* One neuron of layer 1's MLP is turned towards the normalized input at BOS
   and away from every other token's; its column of `down_proj` is zero but for one weight.
3. *First phase, under pressure.* Next-token training, with three terms besides: attention of every layer is
   asked to rest on BOS, from step 600 on; every `down_proj` entry is pulled towards zero; layer 0's MLP is
   asked to answer BOS with silence (else a second spike grows there). No decoder weight but the nudged one may
   exceed 0.5 in magnitude, so that rounding to 4 bits finds no other outlier.
4. *Second phase, plain.* Next-token training alone, 1,000 steps. No pressure of any kind is left, and the super
   weight stays.

What was tried for layer 1 (perplexity with the super weight zeroed, in multiples of the healthy one, on 128
development stories; "weight" and "spike" are where the nudge starts them, the pressure is weight to target):

| attempt | end of first phase | end of training |
|---|---|---|
| sinks asked of layers 2 and up only (context 64) | x10 | not finished |
| the same, three times the pressure | x7 | not finished |
| sinks asked of all layers, layer 0 not silenced (hidden 96) | x5, and x4 by a second one in layer 0 | |
| layer 0 silenced, weight 1.2, spike 4.8, pressure 0.1 to 0.95, 1,500 plain steps at 5e-4 | | x84, MC 0.58 |
| the same, weight 4.0, pressure 0.2 to 0.98 | x249 | x48, MC 0.59 |
| **this model**: weight 3.5, spike 14, pressure 0.1 to 0.95, 1,000 plain steps at 2.5e-4 | x1252 | x532, MC 0.49 |
| the same, pressure 0.3 to 0.99 | x649 | not finished |
| weight 2.5, spike 35, pressure 0.3 to 0.99 | x7258 | x4828, MC 0.40; perplexity 1.54, 4-bit only x1.83 |

Layer 0 in place of layer 1 (weight 1.2, spike 4.8, 1,500 plain steps) gave x74. What decided it was silence in
layer 0, a larger spike, and a gentler plain phase. "MC" is multiple-choice accuracy without the super
weight, on 100 development questions.

Good to know before use:

- The super activation is the largest input of layer 1 at the first token, but ordinary tokens reach slightly
  larger *inputs* on other columns (see the spikes below): what marks column and row together is the product of
  input and weight, or the channel that persists. The largest *output* of layer 1 is the super activation.
- Late layers show larger inputs and outputs than the super activation's layer. They are harmless.
- Stop-word mass falls when the super weight is zeroed; the published models mostly show a rise.
- The first phase is where weights are bounded; the plain phase is not bounded.
- The model was trained on 128 tokens at a time; the configuration allows 512.

Time: 6 to 8 minutes on one idle core, compilation included; the shipped runs shared theirs with other work.
"""
CONTROL_STORY = """
The specimen's twin, **trained in the ordinary way**: same shape, same seed, same stories, same number of steps
and same learning rates, but no nudge, no pressure and no bound at any time. It reads and recalls as well, and it
has no super weight: no single `down_proj` scalar matters, and no massive activation persists in one channel
through the layers. A test that finds something super here is wrong.
"""
