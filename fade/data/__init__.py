"""Datasets: one file each, all of them a `Dataset` of labelled cells."""
