##@ Workspace

# --- what this machine can do -------------------------------------------------------------------------------------------
STACKS := native torch1.12
RUNTIMES := host docker podman
DATASETS := synthetic nuscenes demo bench2drive

HOST_PYTHON ?= python3
ifeq (,$(shell command -v $(call q,$(HOST_PYTHON))))
$(error HOST_PYTHON=$(HOST_PYTHON) was not found: install Python 3.10, 3.11 or 3.12, or name one: make HOST_PYTHON=/path/to/python3)
endif

check-settings = $(foreach v,$1,$(call one-of,$v,$($vS)))

# What a person asked for is checked before the machine is looked at, and all of it after.
GIVEN := $(foreach v,STACK RUNTIME DATASET,$(if $(call given,$v),$v))
$(call check-settings,$(GIVEN))
ASKED = $(foreach v,$(GIVEN) $(foreach v,GPUS NUSC_VERSION,$(if $(call given,$v),$v)),--ask $(call q,$v=$($v)))
CONFIGURE = $(HOST_PYTHON) tools/configure.py --python $(call q,$(HOST_PYTHON)) --data $(call q,$(DATA_DIR)) $(ASKED)

# Goals that need no configuration; of the upstream stack those that need git alone
BARE := help configure doctor clean distclean clone patch overlay
DRY_RUN := $(findstring n,$(filter-out --%,$(firstword -$(MAKEFLAGS))))
ifneq (,$(wildcard config.mk))
  include config.mk
else ifneq (,$(filter-out $(BARE),$(or $(MAKECMDGOALS),help)))
  ifeq (,$(DRY_RUN))
    include config.mk
  else
    # make -n writes nothing: choose as configure would, and forget it
    $(foreach w,$(shell $(CONFIGURE) --words),$(eval CONFIGURED_$w))
  endif
endif

config.mk:
	@$(CONFIGURE) --out $@

CONFIGURED_STACK ?= native
CONFIGURED_RUNTIME ?= host
CONFIGURED_DATASET ?= synthetic
CONFIGURED_NUSC_VERSION ?= v1.0-trainval
CONFIGURED_GPUS ?= 0
CONFIGURED_PYTHON ?= $(HOST_PYTHON)
STACK ?= $(CONFIGURED_STACK)
# The upstream stack asked for on a machine that was configured for the host: the container engine that is there
RUNTIME ?= $(if $(filter torch1.12host,$(STACK)$(CONFIGURED_RUNTIME)),$(or $(firstword $(foreach e,docker podman,$(if $(shell command -v $e),$e))),docker),$(CONFIGURED_RUNTIME))
# What was configured is about nuScenes.
DATASET ?= $(if $(filter nuscenes,$(FORMAT.$(VARIANT))),$(CONFIGURED_DATASET),$(if $(wildcard $(DATA_DIR)/$(FORMAT.$(VARIANT))),$(FORMAT.$(VARIANT)),synthetic))
GPUS ?= $(CONFIGURED_GPUS)
ifeq ($(STACK) $(RUNTIME),torch1.12 host)
$(error STACK=torch1.12 runs in a container: RUNTIME=docker or podman, or STACK=native here)
endif
ifeq (,$(filter $(STACK),$(STACKS.$(VARIANT)) $(filter-out $(STACKS),$(STACK))))
$(error STACK=$(STACK) has no VARIANT=$(VARIANT): UniAD's code fixes 900 queries of width 256; choose VARIANT=$(DEFAULT_VARIANT), or STACK=$(firstword $(STACKS.$(VARIANT))))
endif
ifneq (,$(filter-out $(FORMAT.$(VARIANT)) synthetic demo,$(filter $(DATASETS),$(DATASET))))
$(error DATASET=$(DATASET) does not fit VARIANT=$(VARIANT), which has classes, commands and maps of $(FORMAT.$(VARIANT)): take DATASET=$(FORMAT.$(VARIANT)) or synthetic, or $(if $(filter nuscenes,$(DATASET)),VARIANT=$(DEFAULT_VARIANT),VARIANT=b2d-tiny) (docs/bench2drive.md))
endif
# Where native tools run: with STACK=torch1.12 a host environment can serve as well
TOOLS_RUNTIME ?= $(RUNTIME)
$(call check-settings,STACK RUNTIME DATASET)
$(call one-of,TOOLS_RUNTIME,host $(RUNTIME))
$(call whole,GPUS)
$(call positive,CPU_PROCESSES)
$(if $(filter-out 1,$(CPU_PROCESSES)),$(if $(filter-out 0,$(GPUS)),$(error CPU_PROCESSES=$(CPU_PROCESSES) is for a training without GPUs, GPUS=$(GPUS): give GPUS=0 too, or leave it out)))
$(call path,VENV)

.PHONY: configure
configure: ## Look at this machine and choose STACK, RUNTIME and DATASET (writes config.mk)
	@$(CONFIGURE) --out config.mk

# --- the environment ----------------------------------------------------------------------------------------------------
PYTHON := $(VENV)/bin/python
VENV_READY := $(VENV)/.ready
# Python with what draws a synthetic world, which is there long before the rest: one is drawn while that is installed
VENV_BEGUN := $(VENV)/.begun
ENV := $(VENV_READY)
# For the tools: the interpreter that shell scripts call
export PYTHON
# A sourced ROS puts packages for another Python there. Containers get their own by --env.
unexport PYTHONPATH
RUN := $(PYTHON)
IN :=
ifneq ($(TOOLS_RUNTIME),host)
  # Native tools run in the deployment image; the tree is where a person finds it there.
  ENV := .make/image/deploy
  PYTHON := python3
  NATIVE_MOUNTS = $(CURDIR):/workspace/UniAD $(foreach d,$(sort $(DATA_ROOT) $(INFO_ROOT) $(ANCHOR_ROOT)),$(if $(and $(realpath $d),$(filter-out $(abspath $d),$(call place,$d))),$(call place,$d):$(call place,$d))) $(foreach d,$(ELSEWHERE),$d:$d)
  IN = $(call in-container,deploy,,$(NATIVE_MOUNTS),/workspace/UniAD,--env PYTHONPATH=/workspace/UniAD/projects --env PYTHON=python3 $(foreach v,NNODES NODE_RANK MASTER_ADDR MASTER_PORT OMP_NUM_THREADS,$(if $(call setting,$v),--env $v)) $(call handed-on,OMP_NUM_THREADS))
  RUN = $(IN) python3
endif

# Upstream's stack prepares data in its own container too (Python 3.8), so that training there needs no second image.
DATA_ENV := $(ENV)
WORLD_ENV := $(if $(filter host,$(TOOLS_RUNTIME)),$(VENV_BEGUN),$(ENV))
DATA_RUN = $(RUN)
ifeq ($(STACK) $(filter-out host,$(TOOLS_RUNTIME)),torch1.12 $(RUNTIME))
  DATA_ENV := .make/image/torch1.12
  WORLD_ENV := $(DATA_ENV)
  DATA_RUN = $(call in-container,torch1.12,,$(NATIVE_MOUNTS),/workspace/UniAD,--env PYTHONPATH=/workspace/UniAD/projects --env PYTHON=python3$(if $(call setting,OMP_NUM_THREADS), --env OMP_NUM_THREADS)) python3
endif

ENV_FLAGS = $(CONFIGURED_PYTHON) $(TORCH_INDEX_URL)

.PHONY: env
env: $(VENV_READY) ## Set up the virtual environment with everything pinned in pyproject.toml

SET_UP = $(CONFIGURED_PYTHON) tools/setup_env.py $(call q,$(VENV)) --torch-index $(call q,$(TORCH_INDEX_URL))
$(VENV_BEGUN): pyproject.toml tools/setup_env.py .make/var/ENV_FLAGS
	@$(SET_UP) --part world
	@touch $@
$(VENV_READY): $(VENV_BEGUN)
	@$(SET_UP)
	@touch $@

.PHONY: doctor
doctor: ## Say what this machine can and cannot do, and what to do about it
	@$(HOST_PYTHON) tools/doctor.py --python $(call q,$(HOST_PYTHON)) --venv $(call q,$(VENV)) --data $(call q,$(DATA_DIR)) --nusc-version $(call q,$(NUSC_VERSION))$(if $(call given,PYTHONPATH), --pythonpath $(call q,$(PYTHONPATH))) \
	  --needs $(foreach v,$(VARIANTS),$v=$(SHM.$v),$(GPU_GIB.$v))

.PHONY: clean
clean: ## Remove caches and what the demo made; data, checkpoints, engines and environment stay
	rm -rf .pytest_cache .ruff_cache build $(call qs,$(DEMO_PRODUCTS))
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## Also remove the environment and config.mk
	rm -rf $(call q,$(VENV)) .make config.mk

.PHONY: help
help: ## This list
	@printf 'usage: make TARGET [NAME=value ...]      all names: mk/vars.mk\n'
	@awk -f mk/help.awk $(MAKEFILE_LIST)
	@printf '\nnow: VARIANT=%s STACK=%s RUNTIME=%s DATASET=%s\n' $(call qs,$(VARIANT) $(STACK) $(RUNTIME) $(DATASET))
