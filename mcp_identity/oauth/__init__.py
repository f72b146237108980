"""How it is spoken: pure request/process pairs of the OAuth RFCs; no I/O."""
