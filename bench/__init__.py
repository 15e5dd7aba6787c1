"""Benchmarks: wakeloop beside its peers, in the same run, on the same servers, in alternating rounds.

`make bench` runs them all; README.md beside this file tells how to write one.
"""
