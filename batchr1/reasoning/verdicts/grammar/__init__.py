"""The grammar of answers: from a text to a value.

scan      text → tokens: LaTeX or plain, numbers whole, white space kept where it matters
units     what stands behind a number: units, currencies, counted things
trees     expression trees, and what they hold
syntax    tokens → expression tree
forms     the values that an answer may be
grouping  tokens in groups: brackets, lists, words
numerals  numbers, days and dates in words
compounds  measures in several units, residues
values    tokens → value
"""
