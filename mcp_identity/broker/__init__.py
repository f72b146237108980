"""What shall be done: the verbs of the product."""
