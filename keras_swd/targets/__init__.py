"""How much is to go: counts, budgets, sizes of files."""
