"""The grammar of answers: from a text to a value.

notations  spellings of LaTeX that are another's: `_{10}C_3`
scan      text → tokens: LaTeX or plain, numbers whole, white space kept where it matters
units     what stands behind a number: units, currencies, counted things
trees     expression trees, and what they hold
lookahead  what stands ahead of the parser: fractions, subscripts, names
syntax    tokens → expression tree
forms     the values that an answer may be
grouping  tokens in groups: brackets, lists, words
numerals  numbers, days and dates in words
compounds  measures in several units, hours of the day, residues
measures  currency, multiplier and digits of a number
matrices  rows of a matrix, a factor before it, its determinant
families  sets that have a name, and values with a whole parameter
values    tokens → value
"""
