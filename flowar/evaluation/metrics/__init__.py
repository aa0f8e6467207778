"""How far images are from a reference: each metric is a function of features, in float64 on the features' device."""
