"""Calibration, drift, gate and verdict: whether a model may be published."""
