"""MONAI datalists of public data sets, installed as package data."""
