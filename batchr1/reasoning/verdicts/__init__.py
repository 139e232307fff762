"""Comparison of a final answer with the right one, in stages.

They run in the worker and in the verifier's process, and say which of them decided.

    grammar  from a text to a value: number, words, list, set, interval, relation, matrix
    exact    expression trees as ratios of polynomials over the rationals, without floats
    bases    numbers with their base
    renaming  names that an answer may choose
    numeric  expression trees at points, to 50 digits, where exact arithmetic does not decide
    ranges   sets of real numbers: intervals, their unions, solutions of inequalities
    shapes   values seen as something else: a relation as an interval, a matrix as a vector
    wording  words against words
    logic    three-valued: true, false, not known
    quantities  numbers, units and digits beside each other
    compare  value against value, three-valued: equal, different, not known
    choices  a letter, yes or no, an integer below 1000, a short text
    library  Math-Verify, guarded against its own errors
    judge    the stages in their order
    column   the kind that a whole column of right answers asks for

Everything but `library` and `numeric` is pure Python, bounded in time, and accepts any text.
"""
