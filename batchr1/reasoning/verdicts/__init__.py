"""Comparison of a final answer with the right one, in stages that say which of them decided.

    scan     text → tokens: LaTeX or plain, numbers whole, white space kept where it means something
    units    what stands behind a number: units, currencies, counted things
    syntax   tokens → expression tree
    values   tokens → number, words, list, set, interval, relation, matrix
    exact    expression trees as ratios of polynomials over the rationals: equal or not, without floats
    numeric  expression trees at points, to 50 digits, where exact arithmetic does not decide
    ranges   sets of real numbers: intervals, their unions, what inequalities say
    compare  value against value, three-valued: equal, different, not known
    choices  answers that are a letter, yes or no, an integer below 1000, or a short text
    library  Math-Verify, kept from what it gets wrong
    judge    the stages in their order
    column   the kind that a whole column of right answers asks for

Everything but `library` and `numeric` is pure Python, bounded in time, and accepts any text.
"""
