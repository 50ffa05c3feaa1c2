"""COVID-19 lesions: the model of two networks, its use on volumes and pictures, and how sure it is."""
