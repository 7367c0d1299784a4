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
# # A first run: a tree that outgrows its window
#
# A model of 135 million parameters follows a chain of 20 links. It thinks in a tree of tasks, calls a tool for each link, and
# forgets the inside of every task that is done. All of it happens in one request.
#
# **What do we need?** Two packages, and a choice: open the recording (no model, no waiting), or run it here and now.

# %%
import workbench, widgets
live = False  # True: run it on this machine instead of opening the recording

# %% [markdown]
# **Where does the run come from?** From a file that every step was written to while the engine worked; live, from the engine's
# own recorder. `wb.run` returns at once: the engine has a thread of its own.

# %%
if live:
    problem = workbench.task("chain", 20, seed=22)
    wb = workbench.open_workbench(window=1024)
    run = wb.run(problem.prompt, strategy="tim", tools=[workbench.Lookup(problem.results)])
trace = run.trace if live else workbench.load_trace("../binder/traces/first_run.wbt")
trace

# %% [markdown]
# **What does it look like?** Width is tokens. Above, the tree: hatched is what has left the memory. Below it, what the model can
# still attend to, and the pages that hold it. The dotted line is where memory would be without pruning; the ring marks where the
# window would have been full. Drag to select, scroll to zoom, press `?` for the keys.

# %% tags=["nbval-ignore-output"]
run.show() if live else trace.show()

# %% [markdown]
# **How did it end?** The model answered, and the request stopped by itself.

# %%
tables = trace.tables()
requests = tables["requests"]
requests["finish"][0], requests["answer"][0]

# %% [markdown]
# **How much did it write, and how much did it ever hold?** The stream outgrew the window of 1,024 tokens; the memory never came near.

# %%
stream = len(tables["tokens"]["id"])
peak = int(tables["steps"]["resident"].max())
print(f"{stream:,} tokens in all, at most {peak} of them in memory, {peak / stream:.0%}")

# %% [markdown]
# **When did it forget?** Each time that a task closed. A prune removes the task's whole list of subtasks; the few tokens behind the
# hole are run through the net again, so that the memory is what a fresh reading of the surviving text would have made.

# %%
prunes = tables["prunes"]
for step, removed, again, freed in zip(
    prunes["step"], prunes["removed"], prunes["reencoded"], prunes["pages_freed"]
):
    print(f"step {step:5}: {removed:3} tokens removed, {again:2} read again, {freed:2} pages freed")

# %% [markdown]
# **What is left of a task that was forgotten?** Its thought and its conclusion: enough to go on from.

# %%
nodes = tables["nodes"]
for depth, title, conclusion in zip(nodes["depth"], nodes["title"], nodes["conclusion"]):
    if depth in (1, 2):
        print("  " * depth + f"{title}  =>  {conclusion}")

# %% [markdown]
# **How many tool calls were there, and did any fail?** One for each link, answered inside the request.

# %%
called = nodes["tool_ok"][[bool(tool) for tool in nodes["tool"]]]
len(called), int(called.sum())

# %% [markdown]
# **Where did the pages go?** The same run as pages of 16 tokens. Colour is the task that owns them; a ghost tells why a page
# was freed.

# %% tags=["nbval-ignore-output"]
widgets.KVPages(trace)

# %% [markdown]
# **Can I touch it?** Live, yes: the buttons above drive the engine, and so do these calls. Each is accepted, or refused with a
# reason, and stands in the trace as a fact.

# %% tags=["nbval-ignore-output"]
if live and not run.done:
    run.pause()
    run.step(5)
    run.resume()

# %% [markdown]
# Where next: change `threshold` (how many finished lists stay in memory), or `mode="rotate"`, and compare the memory lanes.
