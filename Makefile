# make audit   audit the model that ships with sw-audit; the report is sw-audit-out/report.html
# make test    run the fast tests
# make cover   run them with coverage, which takes half as long again
# make slow    run the slow tests: whole audits, training, a browser, the wheel
# make others  run the tests of other libraries' quantizers and formats, in an environment of their own
# make engines run the tests of programs that serve models, llama.cpp and vLLM, in an environment of their own
# make check   ruff, ruff format and mypy
# make real    audit a published model (fetched once, 93 MB) and gate descendants of it; reports in sw-audit-out/real
# make real-engines  gate that model and GGUF descendants of it in llama.cpp
# make bench   run the benchmarks and print their tables
# make soak    break checkpoints, fuzz, kill, and count wrong verdicts; writes the tables of docs/robustness.md and docs/intervals.md
# make clean   remove what these commands made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OTHERS := .venv-quantizers
ENGINES := .venv-engines
# gptqmodel pins an older numpy than the rest needs, and runs with the newer one; this is what else it asks for.
BESIDE_GPTQ := defuser device-smi logbar optimum pillow protobuf pypcre threadpoolctl tokenicer

.PHONY: audit test cover slow others engines check format real real-engines bench soak clean

audit: $(READY)
	$(BIN)/sw-audit audit specimen --out sw-audit-out

# Two workers with one thread each: threads of two processes on one core wait for each other actively.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q -m 'not slow'

cover: $(READY)
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -n 2 -q -m 'not slow'
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q -m slow

others: $(OTHERS)/.ready
	OMP_NUM_THREADS=1 $(OTHERS)/bin/python -m pytest -n 2 -q -rs tests/backends tests/formats tests/golden/test_gate.py \
	  tests/measure/test_tasks.py tests/runner/test_on_ray.py tests/evidence/test_keyless.py \
	  tests/evidence/test_model_signature.py

engines: $(ENGINES)/.ready
	OMP_NUM_THREADS=1 $(ENGINES)/bin/python -m pytest -n 2 -q -rs tests/engines

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy sw_audit plugins/pytest_sw_audit reports/sw_audit_reports tools

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

real: $(READY)
	OMP_NUM_THREADS=2 $(BIN)/python -m tools.real

real-engines: $(ENGINES)/.ready
	OMP_NUM_THREADS=2 $(ENGINES)/bin/python -m tools.real.in_engine

bench: $(OTHERS)/.ready
	$(OTHERS)/bin/python -m pytest tests/benchmarks -q -s -o python_files='bench_*.py'

soak: $(OTHERS)/.ready
	OMP_NUM_THREADS=1 $(OTHERS)/bin/python -m tools.soak

clean:
	rm -rf $(VENV) $(OTHERS) $(ENGINES) .cache sw-audit-out build dist .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis

# torch is installed first and alone, so that nothing else decides its version.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sw-audit needs Python 3.11 or later")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[develop]'
	touch $(READY)

# Some of these libraries make transformers slow to import wherever they are installed, so they stay out of the
# environment of everything else; theirs sees that one's packages and adds to them.
$(OTHERS)/.ready: $(READY)
	test -x $(OTHERS)/bin/python || $(BIN)/python -m venv $(OTHERS)
	$(BIN)/python -c 'import site; print(f"import site; site.addsitedir({site.getsitepackages()[0]!r})")' \
	  > $$($(OTHERS)/bin/python -c 'import site; print(site.getsitepackages()[0])')/base.pth
	$(OTHERS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  --editable '.[formats,lm-eval,model-signing,quantizers,ray,sigstore]'
	$(OTHERS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(BESIDE_GPTQ)
	$(OTHERS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  --no-deps gptqmodel
	touch $@

# Every package is named in the file, so that none is looked for, and what vLLM asks for and does not need stays out.
$(ENGINES)/.ready: pyproject.toml constraints-engines.txt
	test -x $(ENGINES)/bin/python || $(PYTHON) -m venv $(ENGINES)
	$(ENGINES)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-engines.txt torch
	$(ENGINES)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement constraints-engines.txt
	$(ENGINES)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@
