"""Tables: rows of numbers and names become training, validation and test rows of a target.

A folder of csv or parquet files (`rows`) with a target column. All other columns are learned from,
unless they are dropped, constant, empty, or names that are all different; what is missing stays
missing, and the stem knows it. Plants may have different columns: each has a stem of its own
(`common.backbones.table`).

The target is a number or the name of a class. Numbers are split in strata of equally many rows by
size, so that training, validation and test all hold small and large ones.
"""
