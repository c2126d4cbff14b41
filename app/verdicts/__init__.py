"""Verdicts: what named readers say about results, kept for good.

`give.give_verdict` is the way in; `record.read_verdicts` the way out. A result
without a verdict is nobody's label.
"""
