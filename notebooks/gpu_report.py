# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What the GPU runtime reaches, and where a step's time goes
#
# Kernels written as CuPy raw CUDA modules, beside the best that runs on the same card without being built: torch's attention
# through cuDNN, its grouped products, transformers. Everything drawn here is in the JSON files of `notebooks/gpu`.
#
# **What do we need?** The rows that came back from a GPU. `live = True` asks this machine what it would run on.

# %%
import workbench, widgets
live = False

# %% [markdown]
# **How near are the kernels to the wall?** A dot beneath the roof: left of the ridge memory is the limit, right of it arithmetic.
# Both roofs are measured in the run of the dots, not read from a datasheet.

# %% tags=["nbval-ignore-output"]
report = widgets.GpuReport("gpu")
report.roofline()

# %% [markdown]
# **Where is every row from?** Each names its device, its date, the commit and the command that makes it again.

# %%
origins = ("device", "date", "commit", "command")
all(row.get(origin) for row in report.rows for origin in origins)

# %% [markdown]
# **From which runs?** One line for each.

# %% tags=["nbval-ignore-output"]
print(report.sources())

# %% [markdown]
# **Where are we ahead, and where behind?** 1 is what the card allows: the time of reading the bytes once, or of the arithmetic.
# The diamond is the best peer that ran beside on the same inputs; for shared prefixes that is our own kernel without the sharing.

# %% tags=["nbval-ignore-output"]
report.ratios()

# %% [markdown]
# **What is missing, and what comes next?** Decode at 8 x 8k takes 1.20 of its bytes' time (Triton 1.13): its loop streams 4.3 of 4.66
# TB/s, start and merge take 8 us; next, tables in the L2 before they are asked for and a merge in one go. Prefill stays 9-22 % behind
# cuDNN; next, a softmax that hides under the other warpgroup's product. One row's draw is a chain of barriers in one block: 11.6 us
# greedily (argmax 8.6), 42 with top-p; next, fewer of them. At batch 1 cuBLAS takes 1.2-1.36 times the bytes' time for the narrow
# products of a layer, 385 us too many of a step of 5,016; next, a product of few tokens of our own. One token through 128 experts: 31.7 us,
# Triton 28.5.

# %% [markdown]
# **Does it say what the CPU says?** SmolLM2 is led along the text that the CPU engine wrote in float32, 20 prompts of 512 tokens. In
# float16 nothing is left of the difference; bfloat16 rounds eight times as coarsely, and torch's own operations more so. Its widest
# disagreement is 0.2, wanted was 0.1: more than half of the divergence is the residual stream's rounding, the rest norms, queries and
# keys; in a trial on a CPU with the stream in float32 the divergence halves, yet the widest stays. float16 is the way to be near.

# %% tags=["nbval-ignore-output"]
print(report.agreement())

# %% [markdown]
# **What does a whole decode step reach?** A net of Qwen3-8B's shape with random weights. "The engine" is everything: scheduling,
# pages, the net, sampling, events. "Our kernels, one graph" is the step alone.

# %% tags=["nbval-ignore-output"]
report.decode("qwen3-8b")

# %% [markdown]
# **And a sparse net?** Qwen3-30B-A3B's shape: 128 experts, eight a token. The floor counts the experts that a step can hit at most.

# %% tags=["nbval-ignore-output"]
report.decode("qwen3-30b-a3b")

# %% [markdown]
# **Where does the time of a step go?** torch's profiler over decode steps of the engine, the longest kernels first.

# %% tags=["nbval-ignore-output"]
report.step_time(batch=8)

# %% [markdown]
# **What does forgetting buy?** Thirty requests of 16k tokens each, of which a share leaves memory on the way. Re-encoding the
# survivors, or moving them, is in the figures.

# %% tags=["nbval-ignore-output"]
report.pressure()

# %% [markdown]
# **What does a grammar cost?** Thirty branches decode freely, inside reasoning trees, and inside JSON of a schema. Masks are filled
# while the net runs; what is left is the time that the device waits for them.

# %% tags=["nbval-ignore-output"]
report.grammar()

# %% [markdown]
# **How soon does a command hold?** Pause, step, prune, fork and pin through the inbox while steps run, each from its hand-in to the
# event that says it happened.

# %% tags=["nbval-ignore-output"]
report.inbox()

# %% [markdown]
# **What did such a run look like?** The recording of a run on the GPU; the next cell opens it with its tree and its pages.

# %% tags=["nbval-ignore-output"]
trace = workbench.load_trace("../binder/traces/gpu_tim.wbt")
trace.show()

# %% [markdown]
# **And sixteen forks of one prompt?** Their common pages are held once, and read once a step.

# %% tags=["nbval-ignore-output"]
workbench.load_trace("../binder/traces/gpu_forks.wbt").show()

# %% [markdown]
# **Where do a sparse net's tokens go?** A small net of 32 experts with random weights: its text says nothing, its router's choices
# come out of the kernel that makes them.

# %% tags=["nbval-ignore-output"]
widgets.ExpertRouting(workbench.load_trace("../binder/traces/gpu_moe_random.wbt"))

# %% [markdown]
# **Can I measure it here?** With a card, yes: the commands above are `workbench bench`. What they print with `--json` can go into a
# file in `notebooks/gpu`, and the pictures follow; the newest row of its kind counts.

# %%
if live:
    wb = workbench.open_workbench()
    print(*wb.settings.reasons, sep="\n")
