"""Models as files: what a repository of the hub holds, what is here of it, and bringing the rest here.

    fetch ─┬─ hub       the hub's API: commit, files with sizes and checksums, bytes from an offset
           ├─ files     which of a repository's files a run needs, and how each is checked
           ├─ transfer  one file: resumed, tried again, verified
           └─ places    where files go: the hub's own cache, or a plain folder
    here     what a run asks: is the model on this machine, whole? (`s3` brings a model there that lies in a bucket)

Beside code: `r1_tiny/`, the embedded model.
"""
