"""The net in token order: facts, weights, tokenizer, decoder. The door is `load_model`."""
