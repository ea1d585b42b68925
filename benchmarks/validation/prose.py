"""The sentences of docs/VALIDATION.md; the figures between them are made."""

HEAD = """# Validation

Made by `python -m benchmarks.validation`. Cycles, milliseconds of boards and GOPS are **simulated**; what is **measured**
says so. BERT-base has random weights (`benchmarks/export_bert.py`): cycles depend on the pattern, not on the values. L3 is
paraphrase-MiniLM-L3-v2, L6 all-MiniLM-L6-v2. All at 1 x 128 tokens on `fpga-u280` unless a row says otherwise.

No hardware of ours exists. These tables show that the simulator counts what the formulas of
[ACCELERATOR.md](ACCELERATOR.md) say, what each idea is worth inside it, and where published machines of about the same size
lie. They do not show that a board would run at these clocks.
"""

MISSING = """## Not made: {name}

`python -m benchmarks.validation --only {name}` makes this section."""

CLOSED_FORMS = """## Closed forms of single layers

Cycles that a layer keeps MATRIX (softmax: VECTOR) busy: the formula, evaluated by
`benchmarks/validation/closed_forms.py` from shapes and pattern alone, and the simulator's events. A test holds them equal
on small models.
"""

PUBLISHED = """## Beside published designs

Machines of ours after published ones. `published` holds only what a public source says; the sources were read as
abstracts, repositories and tables of surveys. GOPS count a multiplication and an addition as two, zeros included, as
papers do.
"""

ABLATIONS = """## What each idea is worth

The model pruned to hp:0.75, on `fpga-u280` with one thing changed: cycles, and the ratio to the first row.
"""

ABLATION_NOTES = """* *No sparse lanes*: the multipliers have no selectors; the weights are dense in memory,
  too: the program of `if dense`.
* *Layer by layer*: the tiles' own order, without list scheduling across layers.
* *Unfused*: `chained = false` in `[accelerator.design]`: scale, bias, residual, each step of a norm, activation, absmax and
  codes are passes of their own, each with its pipeline filled anew. Traffic of the memories on chip is not charged.
* *Probabilities through DRAM*: `probabilities = "dram"`: they are stored after softmax and loaded before the product with
  V. The scores stay on chip (no instruction stores accumulators), so a machine that spills them too loses more.
  With the bandwidth of HBM and half of a sequence at a time the way there and back is hidden: VECTOR is the busier unit and
  has other work meanwhile. A ratio of 0.99 is the luck of a heuristic order, not a gain.
* *CSR*: the pattern is hp, but the format cannot say so: the array runs it window-synchronously, by its real indices.
* *One memory channel*: one thirty-second of the bandwidth. *Half the lanes*: half of those that the sizing chose.
* *Streaming softmax*: `softmax = "streaming"`, ITA's arithmetic ([below](#softmax-exact-and-streaming))."""

SPEEDS = """## The papers' headline ratios, enacted again

arXiv 2110.10030 reports 37x over a CPU and 1.7x over earlier FPGAs, arXiv 2208.06118 14.47x over a CPU (i9-9900X): other
models, CPUs and software, and measured on both sides. Here: the same model and shape, ONNX Runtime in fp32 **measured** on
the CPU at hand ({machine}): the least of {rounds} runs (and their median), with all its cores; the ratios take the
least. Boards **simulated** at the clock of their file, without the transfer over the link.
"""

ASSUMPTIONS = """Assumptions: batch 1, 128 tokens, every token computed on both sides; no accuracy is claimed for the pruned
weights here (one-shot; see [RESULTS.md](RESULTS.md)); a CPU with more or idle cores is faster in proportion."""

SOFTMAX = """## Softmax, exact and streaming

The dense models on the 12 sentences of `examples/sentences.txt`, the integer reference (which the simulator equals bit for
bit, a test) against ONNX Runtime in fp32: the worst output, padding left out. `shift` is ITA's parameter: 5 is its paper's,
0 its later hardware's. At 5 the byte of a logit spans scores of +-2.8 only, and larger ones are cut; at 0 probabilities are
powers of two. ITA's networks are trained with its arithmetic; these are not. Limits of `verify` are 0.10 and 0.985.
"""
