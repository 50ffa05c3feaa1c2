"""How the networks are trained: data, transforms, losses, pretraining."""
