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
# # How two small adapters learned their work, in minutes
#
# `tim-smollm2` writes trees and `cot-smollm2` flat lines: the same problems, the same tools, the same number of tokens. What is
# drawn here is what `workbench train RECIPE --json` printed on a GPU.
#
# **What do we need?** Two packages, and a choice: open what was printed, or let the trained model work here and now at the end.

# %%
import workbench, widgets
live = False

# %% [markdown]
# **Where are the runs from?** A line each. On a GPU, the command makes them again.

# %% tags=["nbval-ignore-output"]
report = widgets.TrainingReport("train")
print(report.sources())

# %% [markdown]
# **How fast do they learn?** Loss a sampled token. The dots are problems that were kept back, longer than any of training.

# %% tags=["nbval-ignore-output"]
report.curves()

# %% [markdown]
# **Which families are hard?** Held-out loss of each. At 0.001 a thousand tokens go by for one nat of surprise: right of the line
# a family will fail on long problems.

# %% tags=["nbval-ignore-output"]
report.families()

# %% [markdown]
# **What does training on pruned views buy?** Two short runs on an earlier mixture of the families, led along held-out problems as a
# pruned memory shows them: how many an adapter would write word for word. One saw texts that nothing was ever taken from.

# %% tags=["nbval-ignore-output"]
print(report.ablations())

# %% [markdown]
# **Which problems are never trained on?** Levels do not overlap; at the levels of training, a tenth of all problems is kept back.

# %%
[workbench.task("calls", level, seed=1).steps for level in (15, 20, 100)]

# %% [markdown]
# **What has it learned?** A chain of 20 links in one request, recorded; live, procedures that call one another, three times longer
# than any of training.

# %% tags=["nbval-ignore-output"]
if live:
    problem = workbench.task("calls", 45, seed=0)
    tool = workbench.Lookup(problem.results, name=problem.tool, parameter=problem.parameter)
    run = workbench.open_workbench().run(problem.prompt, strategy="tim", tools=[tool])
trace = run.trace if live else workbench.load_trace("../binder/traces/first_run.wbt")
trace.show()
