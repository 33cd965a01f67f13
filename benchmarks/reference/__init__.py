"""What users run today, in our own words: the formulas of published code, plainly in NumPy.

Each follows its original's way of computing (precision, order, one item at a time) but the
house's definition of the answer, so that both can be compared value by value.
"""
