##@ The upstream stack (STACK=torch1.12)

# The training tree: the public repository at its pinned commit, our patches, our overlay. Each step leaves a stamp.
UNIAD_COMMIT ?= 02fa68c5cbbd55261b34ad2c55c4c50fa6c120e6
$(call path,UNIAD_TRAIN)
TREE := $(UNIAD_TRAIN)/UniAD
STEPS := $(UNIAD_TRAIN)/.steps
PATCHES := $(sort $(wildcard patch/uniad-*.patch))
# Copied into the tree: the operators' package, the configs, and the tools it lacks
OVERLAY := third_party/uniad_mmdet3d projects/configs tools/postprocess_bevformer_tiny_epoch_24_pth.py
OVERLAY_FILES = $(shell find $(OVERLAY) -type f -not -path '*/__pycache__/*' -not -path '*/build/*' -not -name '*.so' -not -path '*.egg-info/*' 2>/dev/null)

UNIAD_TREE = $(HOST_PYTHON) tools/uniad_tree.py

.PHONY: clone patch overlay compile
clone: $(STEPS)/clone ## Clone UniAD at its pinned commit into UniAD_train/UniAD
patch: $(STEPS)/clone ## Apply our patches to it, once
	@$(PATCH_TREE)
overlay: $(STEPS)/overlay ## Copy third_party, configs and tools into it
compile: $(STEPS)/compile ## Build uniad_mmdet3d inside the container

$(STEPS)/clone: $$(if $$(wildcard $(TREE)/.git),,FORCE)
	$(UNIAD_TREE) clone --tree $(TREE) --url $(call q,$(UNIAD_GIT_URL)) --commit $(UNIAD_COMMIT)
	@mkdir -p $(@D) && touch $@

PATCH_TREE = $(UNIAD_TREE) patch --tree $(TREE) --commit $(UNIAD_COMMIT) $(PATCHES)
$(STEPS)/patch: $(STEPS)/clone $(PATCHES)
	$(PATCH_TREE)
	@touch $@

$(STEPS)/overlay: $(STEPS)/patch $$(OVERLAY_FILES)
	$(UNIAD_TREE) overlay --tree $(TREE) $(OVERLAY)
	@mkdir -p $(TREE)/ckpts $(TREE)/data/nuscenes $(TREE)/data/infos $(TREE)/data/others $(UNIAD_TRAIN)/home
	@touch $@

# --- the container ------------------------------------------------------------------------------------------------------
INSIDE := /workspace/UniAD_train/UniAD
# The world in use appears at upstream's paths. The deployment tree is this repository.
STACK_MOUNTS = $(abspath $(TREE)):$(INSIDE) $(CURDIR):/workspace/UniAD $(abspath $(UNIAD_TRAIN))/home:/home/uniad
DATA_PLACES = $(DATA_ROOT):nuscenes $(INFO_ROOT):infos $(dir $(ANCHORS)):others
data-mount = $(call place,$(firstword $1)):$(INSIDE)/data/$(lastword $1)
DATA_MOUNTS = $(foreach p,$(DATA_PLACES),$(call data-mount,$(subst :, ,$p)))
# Upstream's scripts end in `| tee`: with pipefail a failed run is one.
STACK_ENV = --env HOME=/home/uniad --env SHELLOPTS=pipefail
# $(call in-stack,folder,GiB of /dev/shm,mounts,more)
in-stack = $(call in-container,torch1.12,$2,$(STACK_MOUNTS) $3,$1,$(STACK_ENV)$(if $4, $4))

# A shell sees what data there is.
IN_UPSTREAM = $(call in-stack,$(INSIDE),,$(foreach p,$(DATA_PLACES),$(if $(wildcard $(firstword $(subst :, ,$p))),$(call data-mount,$(subst :, ,$p)))),)

# Is there a container engine, and is no GPU newer than this torch? Asked before anything that takes long.
CAN_RUN = $(HOST_PYTHON) tools/configure.py --ask STACK=torch1.12 --ask RUNTIME=$(RUNTIME) --ask GPUS=$(GPUS) --python $(call q,$(HOST_PYTHON)) --words > /dev/null

# It builds against this image's torch and Python: another image, another build. With kernels for GPUs wherever the image has nvcc, so
# that what was compiled without a GPU serves when there is one.
$(STEPS)/compile: $(STEPS)/overlay .make/image/torch1.12
	@$(CAN_RUN)
	UNIAD_LOCK=$(STEPS)/lock $(call in-stack,$(INSIDE)/third_party/uniad_mmdet3d,,,) python3 setup.py build develop --user
	@touch $@

# --- training and evaluation --------------------------------------------------------------------------------------------
# Upstream's script counts the GPUs of all machines; several machines take the workflow's launch instead of the script. To that we add
# what the script adds: --deterministic, and the work dir, which is ./work_dirs/ otherwise, where nothing looks for checkpoints.
DOC_ENV := $(if $(NET_FLAGS),--env RANK=$(NODE_RANK) --env MASTER_ADDR=$(MASTER_ADDR) --env MASTER_PORT=$(MASTER_PORT))
$(call whole,CPU_WORKERS)
CPU_OPTIONS := $(if $(filter 0,$(GPUS)),data.workers_per_gpu=$(CPU_WORKERS))
# From nothing: nothing is loaded, nothing is frozen, and the backbone learns as fast as the rest.
SCRATCH_OPTIONS.1 := load_from=None model.img_backbone.frozen_stages=-1 model.img_backbone.norm_eval=False model.img_backbone.norm_cfg.requires_grad=True \
  model.freeze_img_backbone=False model.freeze_img_neck=False model.freeze_bn=False optimizer.paramwise_cfg.custom_keys.img_backbone.lr_mult=1.0
SCRATCH_OPTIONS.2 :=
# A run of iterations: the runner's own names, and no validation in the middle.
iter-options = $(if $(MAX_ITERS.$1),total_epochs=None runner.type=IterBasedRunner runner.max_epochs=None runner.max_iters=$(MAX_ITERS.$1) checkpoint_config.interval=$(MAX_ITERS.$1) log_config.interval=1)
epoch-options = $(if $(EPOCHS.$1),total_epochs=$(EPOCHS.$1) runner.max_epochs=$(EPOCHS.$1))
doc-options = $(strip $(if $(filter 1,$(SCRATCH)),model.pretrained=None $(SCRATCH_OPTIONS.$1)) $(epoch-options) $(iter-options) $(CLIP_OPTIONS) $(CPU_OPTIONS) $(CFG_OPTIONS))
doc-config = ./projects/configs/$(CONFIG_DIR.$1)/$(STEM.$(VARIANT))_$(KIND.$1).py
doc-work = projects/work_dirs/$(CONFIG_DIR.$1)/$(STEM.$(VARIANT))_$(KIND.$1)
doc-trained = $(TREE)/$(call doc-work,$1)/$(if $(MAX_ITERS.$1),iter_$(MAX_ITERS.$1),epoch_$(or $(EPOCHS.$1),$(SCHEDULE.$1))).pth
doc-name = $(STEM.$(VARIANT))_$(KIND.$1).pth

doc-more = $(if $(call given,SEED), --seed $(SEED))$(if $(MAX_ITERS.$1), --no-validate)$(if $(doc-options), $(call cfg-options,$(doc-options)))
DOC_LAUNCH = python -m torch.distributed.launch --nproc_per_node=$(GPUS) --nnodes=$(NNODES) --node_rank=$(NODE_RANK) --master_addr=$(or $(MASTER_ADDR),127.0.0.1) --master_port=$(MASTER_PORT)
# Upstream's script counts eight GPUs as a machine: of more, it waits for machines that never come, or leaves some idle.
BY_LAUNCH := $(NET_FLAGS)$(filter-out 0 1 2 3 4 5 6 7 8,$(GPUS))
TRAIN_BY := $(if $(filter 0,$(GPUS)),one-process,$(if $(BY_LAUNCH),launch,script))
train-by.one-process = python3 ./tools/train.py $(doc-config) --deterministic --work-dir ./$(doc-work)/
train-by.launch = $(DOC_LAUNCH) ./tools/train.py $(doc-config) --launcher pytorch --deterministic --work-dir ./$(doc-work)/
train-by.script = ./tools/uniad_dist_train.sh $(doc-config) $(GPUS)
doc-train = $(call train-by.$(TRAIN_BY),$1)$(doc-more)
doc-eval-config = $(if $(CONFIG),$(call doc-inside,$(CONFIG)),$(doc-config))
doc-eval = $(if $(filter 0,$(GPUS)),python3 ./tools/test.py $(doc-eval-config) $(call doc-inside,$(doc-reads)) --eval bbox,./tools/uniad_dist_eval.sh $(doc-eval-config) $(call doc-inside,$(doc-reads)) 1)$(if $(CPU_OPTIONS)$(CFG_OPTIONS), $(call cfg-options,$(CPU_OPTIONS) $(CFG_OPTIONS)))

ifeq ($(STACK),torch1.12)
# Settings of training that upstream's script does not have
$(if $(filter-out demo-steps,$(ASKED_TO_TRAIN)),$(foreach v,TRAIN_ARGS TRAIN_PRECISION FAST CPU_PROCESSES,$(if $(filter command,$(origin $v)),$(if $(filter-out fp32 auto 0 1,$($v)),$(error $v=$($v) is for STACK=native: upstream's script has no such option)))))
# Its container sees the training tree, and of what a link there leads to nothing outside. ckpts/ of this repository is copied from.
$(if $(ASKED_TO_TRAIN),$(foreach f,$(wildcard $(addprefix $(TREE)/,$(RAW.$(VARIANT)) $(INIT.$(VARIANT)) $(call ckpt,1))),$(if $(filter $(realpath $(TREE))/%,$(realpath $f)),,$(error $f is a link out of its container, to $(realpath $f): put the link into ckpts/ instead, or copy the file))))

# Before training every machine waits for the others, for NODE_TIMEOUT seconds.
ALL_NODES_HERE = $(if $(NET_FLAGS),$(HOST_PYTHON) mk/lib/wait_for_nodes.py --nodes $(NNODES) --rank $(NODE_RANK) --address $(MASTER_ADDR) --port $(MASTER_PORT) --timeout $(NODE_TIMEOUT),true)
IN_TRAINING = $(call in-stack,$(INSIDE),$(patsubst %g,%,$(SHM.$(VARIANT))),$(DATA_MOUNTS),--env PYTHONPATH=$(INSIDE)$(if $(DOC_ENV), $(DOC_ENV)))

# $(call doc-ckpt,stage): the checkpoint in the training tree. One that somebody brought, to either tree, is taken as it is.
doc-ckpt = $(TREE)/ckpts/$(doc-name)
doc-as-is = $(or $(call as-is,$(doc-ckpt)),$(if $(ASKED_TO_TRAIN),,$(wildcard $(doc-ckpt))))
doc-from = $(or $(filter $(call ckpt,$1),$(BROUGHT)),$(if $(ASKED_TO_TRAIN),,$(wildcard $(call ckpt,$1))),$(doc-trained))
# What evaluation reads: a file of somebody's own, the deployed one that was brought, or the stage's
doc-read = $(or $(CKPT),$(if $(filter 2,$1),$(filter $(DEPLOYED),$(BROUGHT))),$(wildcard $(doc-ckpt)),$(if $(ASKED_TO_TRAIN),,$(wildcard $(call ckpt,$1) $(if $(filter 2,$1),$(DEPLOYED)))),$(doc-ckpt))
doc-reads = $(firstword $(doc-read))
doc-within = $(patsubst $(realpath .)/%,/workspace/UniAD/%,$(patsubst $(call place,$(TREE))/%,./%,$(call place,$1)))
# Its path inside the container, where a file from elsewhere has a mount of its own
doc-inside = $(if $(filter /workspace/UniAD/% ./%,$(call doc-within,$1)),$(call doc-within,$1),/workspace/given/$(notdir $(call place,$1)))
doc-mount = $(if $(filter /workspace/given/%,$(call doc-inside,$1)),$(patsubst %/,%,$(dir $(call place,$1))):/workspace/given:ro)

define doc-stage-rules
doc-reads.$1 := $(INFOS) $(if $(filter 1,$1),$(if $(INIT),$(TREE)/$(INIT)),$(call doc-ckpt,1) $(ANCHORS))
# The same run as tools/train.py would name it
doc-words.$1 = $(doc-config) --seed $$(SEED) $$(call cfg-options,$$(call doc-options,$1))

.PHONY: train-stage$1
train-stage$1: $(doc-trained)

# Another run in the same place is set aside, never continued and never deleted; of several machines the first one looks.
$(doc-trained): $(if $(filter $(call finished,$1),$(KEPT)),,$(STEPS)/compile $(ANCHORS) $$(doc-reads.$1) $(if $(or $(ASKED_TO_TRAIN),$(if $(wildcard $(doc-ckpt) $(call ckpt,$1)),,1)),$$(call other-run,,$(TREE)/$(doc-work),$$(doc-reads.$1),$$(doc-words.$1))))
	@$$(CAN_RUN)
	$$(call claim-run,$(TREE)/$(doc-work),$$(doc-reads.$1),$$(doc-words.$1)) $$(continued)$$(ALL_NODES_HERE) $$(continued)$$(IN_TRAINING) $$(call doc-train,$1)$$(if $$(wildcard $(TREE)/$(doc-work)/latest.pth), --resume-from ./$(doc-work)/latest.pth)
	@$$(call trained-or-error,$$@,$$(if $$(NET_FLAGS),': several machines need $(UNIAD_TRAIN) on storage that all of them share'))
	@touch $$@

# As the workflow has it: cp, then mv. Of several machines the first one does it, on storage that they share.
$(if $(doc-as-is),,$(doc-ckpt): $(doc-from)
  ifeq (0,$(NODE_RANK))
	@$(RECORDS) free $$< $$(@D)/$$(<F)
	@$(RECORDS) record $$< $$@
	cp $$< $$(@D)/
	$$(if $$(filter-out $$(<F),$$(@F)),mv $$(@D)/$$(<F) $$@)
  else
	@mk/lib/wait_for_file.sh $$@ $$< $(NODE_TIMEOUT)
  endif
)
# The deployment tree's copy, under the name that export and evaluation read
$(if $(call as-is,$(call ckpt,$1)),,$(call ckpt,$1): $(doc-ckpt)
  ifeq (0,$(NODE_RANK))
	@$(RECORDS) copy $$(call q,$$<) $$(call q,$$@)
  else
	@mk/lib/wait_for_file.sh $$@ $$< $(NODE_TIMEOUT)
  endif
)
$(call results,$1): $(doc-reads) $(INFOS_VAL) $(STEPS)/compile .make/var/DOC_EVAL.$1
	$$(call in-stack,$$(INSIDE),$$(patsubst %g,%,$$(SHM.$$(VARIANT))),$$(DATA_MOUNTS) $$(call doc-mount,$(doc-reads)),--env PYTHONPATH=$$(INSIDE)$$(if $$(GPU_FLAGS), --env CUDA_VISIBLE_DEVICES=0)) $$(call doc-eval,$1)
	@touch $$@
DOC_EVAL.$1 = $$(call doc-eval,$1)
endef
$(foreach s,$(STAGES),$(eval $(call doc-stage-rules,$s)))

# BEVFormer weights: as in the workflow the download lies in the tree's ckpts/, and for tiny its script makes the initial weights of
# it in the container. Those that somebody has already, there or in this repository's ckpts/, are taken.
# Several machines that share the tree copy side by side: each to a name of its own, and the last one to rename changes nothing.
COPY_ONCE = trap 'rm -f $(OWN_PARTIAL)' EXIT; cp $< $(OWN_PARTIAL); mv $(OWN_PARTIAL) $@
OWN_PARTIAL = $@.partial$(filter-out 0,$(NODE_RANK))
there-or = $(or $(wildcard $1),$(if $(wildcard $(TREE)/$1),,$1))
ifneq (,$(RAW.$(VARIANT)))
$(TREE)/$(RAW.$(VARIANT)): $(call there-or,$(RAW.$(VARIANT))) | $(STEPS)/overlay
	$(COPY_ONCE)
endif
ifneq ($(RAW.$(VARIANT)),$(INIT.$(VARIANT)))
  ifneq (,$(wildcard $(INIT.$(VARIANT))))
$(TREE)/$(INIT.$(VARIANT)): $(INIT.$(VARIANT)) | $(STEPS)/overlay
	$(COPY_ONCE)
  else
$(TREE)/$(INIT.$(VARIANT)): $(if $(wildcard $(TREE)/$(INIT.$(VARIANT))),,$(TREE)/$(RAW.$(VARIANT))) | $(STEPS)/overlay .make/image/torch1.12
	$(call in-stack,$(INSIDE),,,) python3 ./tools/postprocess_bevformer_tiny_epoch_24_pth.py
  endif
endif
endif

# Made by mk/jobs.mk, which stands in for all this where a job is asked for
.PHONY: slurm
slurm: ## Submit training to Slurm: NNODES machines, GPUS on each; the same as `make train ON=slurm`

##@ Workspace
.PHONY: shell
ifeq ($(STACK),torch1.12)
shell: $(STEPS)/overlay .make/image/torch1.12 ## Open a shell where this STACK's commands run
	$(IN_UPSTREAM) /bin/bash
else
shell: $(ENV)
  ifeq ($(TOOLS_RUNTIME),host)
	@VIRTUAL_ENV=$$PWD/$(VENV) PATH=$$PWD/$(VENV)/bin:$$PATH exec "$${SHELL:-bash}"
  else
	$(IN) /bin/bash
  endif
endif

##@ Tests
.PHONY: compare-stacks
compare-stacks: $(VENV_READY) ## Both stacks on one synthetic world: samples, evaluation, losses; UPSTREAM_PYTHON=...
	@status=0; $(VENV)/bin/python tests/stacks/compare_stacks.py --python $(call q,$(UPSTREAM_PYTHON)) --tree $(TREE) $(COMPARE_ARGS) || status=$$?; [[ $$status == 0 || $$status == 77 ]]
