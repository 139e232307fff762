"""Models as files: by name, in place, fetched.

They are resolved in the driver. A worker looks on its own node.

catalogue  the variants that batchr1 knows by name
recommended  settings by a model's card and generation_config.json
resolve    a job's `model:` to a folder or repository, a revision and a config
overrides  a config with `engine_args.hf_overrides`, and the context that it gives
adapter    a LoRA adapter in a folder
cached     whether a model is on this machine, whole
bucket     models on S3
fetch      `batchr1 fetch` without the command line
download   several files side by side
transfer   one file: resumed, tried again, verified
hub        the hub's API: commits, files, checksums, bytes
files      the files that a run needs, and how each is checked
places     the hub's cache or a plain folder
progress   the bar or the lines of a fetch on stderr

r1_tiny/ holds the embedded model: weights and card. Its recipe is in recipes/.
"""
