"""The five lobes and their segments."""
