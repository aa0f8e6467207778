"""Metrics of images against a reference: functions of features, in float64 on the features' device."""
