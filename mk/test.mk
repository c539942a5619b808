##@ Tests

$(call whole,TEST_JOBS)

.PHONY: test
test: $(ENV) ## Unit, parity, pipeline and make tests; TESTS='tests/unit -k config' for some of them
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(TEST_JOBS) --dist worksteal $(TESTS) $(TEST_ARGS)

.PHONY: lint
lint: $(ENV) ## Style and errors that need no run
	$(RUN) -m ruff check .
	@for script in tools/*.sh .ci/run; do bash -n "$$script"; done
