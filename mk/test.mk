##@ Tests

$(call positive,TEST_JOBS)
# Numbers recorded from upstream; tests skip what needs them where they are absent.
UNIAD_GOLDEN ?= ../shared/golden
export UNIAD_GOLDEN

.PHONY: test
test: $(ENV) ## Unit, parity, pipeline and make tests; TESTS='tests/unit -k config' for some of them
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(TEST_JOBS) --dist worksteal -m 'not long' $(TESTS) $(TEST_ARGS)

.PHONY: test-fast
test-fast: $(ENV) ## Only the tests that take less than ten seconds each: the ones to run while you work
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(TEST_JOBS) --dist worksteal -m 'not slow and not long' $(TESTS) $(TEST_ARGS)

.PHONY: test-slow
test-slow: $(ENV) ## The rest of `make test`: tests of ten seconds and more
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(TEST_JOBS) --dist worksteal -m 'slow and not long' $(TESTS) $(TEST_ARGS)

.PHONY: test-long
test-long: $(ENV) ## Tests of minutes: engines, quantisation, recorded frames of other generations, commands on the pages
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(TEST_JOBS) --dist loadfile -m long $(TESTS) $(TEST_ARGS)

# With the packages of the very interpreter that runs it: by itself it would look for an environment.
TYPES = $(RUN) -c 'import os, sys; os.execv(sys.executable, [sys.executable, "-m", "pyrefly", "check", "--python-interpreter-path", sys.executable])'

.PHONY: types
types: $(ENV) ## The type checker alone, which lint runs as well
	$(TYPES)

.PHONY: lint
lint: $(ENV) ## Style, errors that need no run, types, and the order of packages (docs/architecture.md)
	$(RUN) -m ruff check .
	$(TYPES)
	PYTHONPATH=projects $(RUN) -c 'from importlinter.cli import lint_imports_command as lint; lint(["--no-cache"])'
	@for script in tools/*.sh mk/lib/*.sh .ci/run; do bash -n "$$script"; done

# Outside CI: a module takes minutes to hours.
.PHONY: mutants
mutants: $(VENV_READY) ## Change modules that decide (MUTANTS), one operator at a time, and say which changes no test notices
	$(VENV)/bin/python mk/lib/mutate.py $(MUTANT_ARGS) $(MUTANTS)

.PHONY: golden
golden: | $(ENV) ## Write the committed extracts in tests/golden again, from UNIAD_GOLDEN
	@[[ -f $(call q,$(UNIAD_GOLDEN)/weight_rule.py) ]] || { echo 'error: UNIAD_GOLDEN=$(UNIAD_GOLDEN) holds no recorded numbers' >&2; exit 2; }
	@for script in tests/golden/make_*.py; do echo "$$script"; $(RUN) "$$script" "$$UNIAD_GOLDEN"; done

.PHONY: test-containers
test-containers: $(VENV_READY) ## The upstream stack's workflow through a real container engine, where one can be had
	@status=0; mk/lib/with_engine.sh $(VENV)/bin/python -m pytest tests/containers $(TEST_ARGS) || status=$$?; [[ $$status == 0 || $$status == 77 ]]
