"""The OpenAI-compatible endpoint over one session's engine.

`GET /v1/models` names the net, and the net with each strategy (`NAME/tim`). `POST
/v1/chat/completions` serves messages, stream, tools, tool_choice, parallel_tool_calls,
response_format, logprobs, top_logprobs (0 to 20), n, seed, stop, max_tokens, temperature, top_p,
logit_bias and presence_penalty as OpenAI's does; top_k, min_p and repetition_penalty beside them.
`user`, `metadata` and the like are taken and change nothing. What is not served is refused.

The extension is one field of the body, `workbench`:

    {"strategy": "tim",          a strategy in place of plain chat; also as model `NAME/tim`
     "params": {…},              its parameters, as of `workbench run --param`; `structure` is a
                                 declared task structure (`Structure.json`)
     "tools": ["lookup"],        of the server's (`serve --tools`), called inside the inference
     "budget": {"sampled": 500},
     "events": true}             the tree as it grows

A strategy's text comes as `reasoning_content`, its answer as `content`. With `events` each fact of
the tree is the field `workbench` of a chunk whose delta is empty: `node_opened`, `node_titled`,
`node_closed`, `tool_called`, `tool_returned`, `pruned`, with the fields of the trace's facts, and
last `run_ended` with the run's figures. Without stream they are the list `workbench.events`.

A strategy may call the client's own function tools too. The reply then ends with `tool_calls` while
the inference waits, its memory kept; the next request, whose last message is the result, goes on in
the same inference (a wait of over 120 s ends it).
"""
