"""What is it: pure values and rules, no I/O, no clock calls, no logging."""
