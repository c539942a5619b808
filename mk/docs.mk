##@ Docs

# What the site is built with comes when it is asked for; training needs none of it.
DOCS_READY := $(VENV)/.docs
$(DOCS_READY): pyproject.toml | $(VENV_READY)
	$(VENV)/bin/python -m pip install --quiet --editable '.[docs]'
	@touch $@

.PHONY: docs
docs: $(DOCS_READY) ## Build the docs site into outputs/site: pages, and the API from docstrings; a broken link is an error
	$(VENV)/bin/python mk/lib/stage_docs.py .make/docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --quiet --strict
	@echo outputs/site/index.html
