"""How many bytes a file will have, before there is one."""
