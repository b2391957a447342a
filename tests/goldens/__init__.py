"""How each golden case of the reference codes is run with keras_moe.

`golden` holds the arrays and the comparison; the other files have one table
each, `CASES`, from the name of a case to a `golden.Case`.
"""
