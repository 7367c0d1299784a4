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
# # Beyond the window: what a tree may forget
#
# An expression of 63 nodes, evaluated with a tool that tells one node a call. The value of a left child has to outlive the whole
# evaluation of the right one: no window over flat text can keep it. The tree keeps it, and forgets the rest.
#
# **What do we need?** The recording of a run in a window of 1,024 tokens, and the tables of the evaluations.

# %%
import workbench, widgets
live = False  # True: evaluate the 63 nodes here and now instead of opening the recording

# %% [markdown]
# **What does it look like?** The tree grows to the right and folds: hatched is what has left the memory. The dotted line is the
# memory that flat text would take; the ring marks where the window would have been full.

# %% tags=["nbval-ignore-output"]
wb = workbench.open_workbench(window=1024)
if live:
    problem = workbench.task("expression", 63, seed=3)
    tools = [workbench.Lookup(problem.results, name=problem.tool, parameter=problem.parameter)]
    run = wb.run(problem.prompt, tools=tools)
trace = run.trace if live else workbench.load_trace("../binder/traces/expression.wbt")
run.show() if live else trace.show()

# %% [markdown]
# **How far past the window is that?** The text is more than three windows long. The memory never filled one.

# %%
tables = trace.tables()
text, held = len(tables["tokens"]["id"]), tables["steps"]["resident"]
print(f"{text:,} tokens of text in a window of 1,024; {held.max()} in memory at most, {held[-1]} at the end")

# %% [markdown]
# **What is the shape of memory over time?** A sawtooth of pages: a list of subtasks grows, its owner concludes, the list goes.

# %% tags=["nbval-ignore-output"]
widgets.MemoryOverTime(trace)

# %% [markdown]
# **How does the tree fold?** At each quarter of the run: nodes written so far, and tokens of them in memory.

# %%
last = len(held) - 1
for quarter in (1, 2, 3, 4):
    step = last * quarter // 4
    then = trace.tables(at=step)
    nodes, written = len(then["nodes"]["path"]), len(then["tokens"]["id"])
    print(f"step {step:5}: {nodes:3} nodes, {written:5,} tokens written, {held[step]:4} in memory")

# %% [markdown]
# **Whose are the pages?** Colour is the subtree that owns them; scrub to see a subtree's pages freed together.

# %% tags=["nbval-ignore-output"]
widgets.KVPages(trace)

# %% [markdown]
# **What if it forgot at another moment?** The same problem five times, live on this machine, in one batch. Forget a list when its
# owner has concluded (as trained); one list later; never; before the owner could conclude; or move the survivors instead of
# reading them again.

# %% tags=["nbval-ignore-output"]
problem = workbench.task("expression", 11, seed=0)
tools = [workbench.Lookup(problem.results, name=problem.tool, parameter=problem.parameter)]
ways = {"as trained": {}, "one list later": {"threshold": 1}, "never": {"threshold": None}}
ways |= {"before the conclusion": {"trigger": "list_closed"}, "moved": {"mode": "rotate"}}
runs = {name: wb.run(problem.prompt, tools=tools, **way) for name, way in ways.items()}
found = {name: run.wait(100) for name, run in runs.items()}

# %% [markdown]
# **Did the answer change?** Later changes nothing. Earlier loses what the conclusion needed.

# %%
print(f"the right answer is {problem.answer}")
{name: found[name].answer for name in ("as trained", "one list later", "never")}

# %% [markdown]
# **And what did it cost?** Tokens in memory at most, and tokens that were read again.

# %% tags=["nbval-ignore-output"]
for name, result in found.items():
    kv = result.summary["kv"]
    peak, again = kv["own_peak_tokens"], kv["reencoded_tokens"]
    print(f"{name:22} {result.answer:>4}   {peak:4} tokens at most, {again:4} read again")

# %% [markdown]
# **And by hand, too early?** We wait until the second operand begins, stop, and take the first one, value and all, out of memory.
# The list of the root looks empty then.

# %% tags=["nbval-ignore-output"]
run = wb.run(problem.prompt, tools=tools)
run.wait_for("1.2")
run.pause()
removed = run.prune("1")["removed"]
run.resume()
print(f"{removed} tokens taken out; answered {run.wait(100).answer}, right is {problem.answer}")

# %% [markdown]
# **What did it do without?** Look at the root's subtasks. Where the pause lands differs from run to run: what was lost is evaluated
# again and the answer is right, or it is missed and the answer wrong, or the run goes in circles.

# %% tags=["nbval-ignore-output"]
print([f"{node.title}: {node.conclusion}" for node in run.node("1").children])
print([r.summary["tokens"]["sampled"] for r in (found["as trained"], run.wait())])
wb.close()

# %% [markdown]
# **Is that one lucky problem?** Four arms on the same problems: the tree; flat lines with everything kept; flat lines in a window
# that holds no more than the tree did on that very problem; and the model without an adapter, shown two worked problems.

# %% tags=["nbval-ignore-output"]
report = widgets.EvalReport("eval")
report.arms()

# %% [markdown]
# **In figures?** Right answers, problems, and tokens in memory at most (mean).

# %% tags=["nbval-ignore-output"]
print(report.table())

# %% [markdown]
# **When the tree is wrong, where did it go wrong?** In what kind of text it first left the right one.

# %% tags=["nbval-ignore-output"]
print(report.errors())

# %% [markdown]
# **Does forgetting cost right answers?** The same problems, pruned and not, inside the window.

# %% tags=["nbval-ignore-output"]
print(report.paired())

# %% [markdown]
# **What does each threshold cost?** Accuracy over memory, for lists kept, both ways to close the hole, and both moments.

# %% tags=["nbval-ignore-output"]
report.thresholds()

# %% [markdown]
# **And without an engine?** transformers in a plain loop, one request at a time, here one problem: its cache cropped at each hole, the survivors run
# again. The adapter is merged into its weights.

# %% tags=["nbval-ignore-output"]
print(report.naive())

# %% [markdown]
# **Does it hold past the window?** Tokens sampled in one inference, in multiples of the window: the model's own on a GPU, one of
# 1,024 on a laptop's CPU.

# %% tags=["nbval-ignore-output"]
print(report.past())

# %% [markdown]
# **And many windows past it?** Single runs, on a GPU, until the time was over: the share that is right word for word after so many
# windows of 8,192 sampled tokens. In brackets, how many runs were seen so far. `limits` goes deep at its very beginning.

# %% tags=["nbval-ignore-output"]
print(report.survival())

# %% [markdown]
# **How far does it go?** The longest single inference that was recorded: 43 windows of text sampled, 5,526 tool calls. It left the
# right text at 34,300 sampled tokens, went on as if nothing had happened, and ended long before its program did.
# Of its first quarter memory was noted only now and then: there the line joins what was seen.

# %% tags=["nbval-ignore-output"]
report.memory()

# %% [markdown]
# Where next: `workbench eval --arms all --task blocks --level 63 --json` makes such rows here; `notebooks/eval` says where these
# were made.
