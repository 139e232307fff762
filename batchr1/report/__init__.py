"""Reports: outputs in numbers and as a page.

They run in the process that was started.

numbers   everything that a report says, as plain values
scan      one pass over the parts
rows      chosen rows with their texts, for `batchr1 show`
summary   counts and shares of one output
totals    several outputs: a line each, and all of them
measures  pass@k, cons@k and their intervals
compare   outputs against each other, over the prompts that they share
labels    prompts by pass rate and majority share
nights    runs as nights, over one output or several
planned   planned beside measured figures of a run
figures   charts as SVG
page      the report as one HTML file
write     where the page goes
newest    rows that were committed last, for `batchr1 status --rows`
health    whether a run is alive, for `batchr1 status --health`
"""
