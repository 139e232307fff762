"""Files of lines as batches of the fields that a job names.

json_lines  JSON lines
csv_lines   CSV and TSV
"""
