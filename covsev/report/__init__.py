"""What leaves covsev for people and other programs."""
