"""Masks that exist already, of covsev or of other tools: read, understood and scored without torch."""
