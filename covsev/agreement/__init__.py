"""How far masks, scores and two dates of one patient agree."""
