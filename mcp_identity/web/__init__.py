"""The browser edge: the pages of a consent, the callback, and the loopback port that serves them."""
