# UniAD by make. `make help` lists what there is; mk/ holds one concern per file.

ifeq (,$(filter undefine,$(.FEATURES)))
$(error GNU make $(MAKE_VERSION) is too old, 4.0 or newer is needed (macOS: brew install make, then gmake))
endif

MAKEFLAGS += --warn-undefined-variables --no-builtin-rules --no-print-directory
SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

##@ Start here
include mk/prelude.mk
include mk/values.mk
include mk/settings.mk
include mk/vars.mk
include mk/variants.mk
include mk/workspace.mk
# A training that another machine runs is a job of its cluster, and nothing is made here.
ifneq (,$(filter slurm,$(MAKECMDGOALS)))
override ON := slurm
endif
ifneq (,$(ON))
include mk/jobs.mk
else
include mk/generation.mk
include mk/weights.mk
include mk/data.mk
include mk/container.mk
include mk/train.mk
include mk/upstream.mk
include mk/preflight.mk
include mk/export.mk
include mk/engine.mk
include mk/jetson.mk
include mk/infer.mk
include mk/assess.mk
include mk/test.mk
include mk/docs.mk
include mk/demo.mk
endif
