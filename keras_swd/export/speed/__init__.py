"""Whether zeros save time, and what is in the way."""
