"""The command line: one file a verb, JSON lines on request, errors in one line."""
