"""What a strategy may ask for, by topic. Each function takes the engine; `Engine` names them."""
