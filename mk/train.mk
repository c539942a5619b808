##@ Training and evaluation

# Products of another world than nuScenes or the synthetic one (the demo) lie in a folder of its own below each place.
SUB := $(if $(filter demo,$(DATASET)),demo/)
WORK_DIR := projects/work_dirs/$(SUB)
CKPT_DIR := ckpts/$(SUB)

$(call one-of,TRAIN_PRECISION,fp32 tf32 bf16 fp16)
$(call whole,SEED)
$(if $(EPOCHS),$(call whole,EPOCHS))
$(foreach v,MAX_ITERS MAX_ITERS.1 MAX_ITERS.2,$(if $($v),$(call whole,$v)))
$(if $(QUEUE_LENGTH),$(call whole,QUEUE_LENGTH))
$(if $(FROM_SCRATCH),$(call one-of,FROM_SCRATCH,0 1))
$(if $(and $(EPOCHS),$(MAX_ITERS.1)$(MAX_ITERS.2)),$(error EPOCHS=$(EPOCHS) and MAX_ITERS=$(or $(MAX_ITERS.1),$(MAX_ITERS.2)) both say how long to train: give one))

# A world without published weights trains from nothing, unless told otherwise.
SCRATCH := $(or $(FROM_SCRATCH),$(if $(filter nuscenes,$(DATASET)),$(if $(INIT.$(VARIANT)),0,1),1))

# $(call config,stage), $(call work,stage): the config file, and the folder that training it writes to
config = projects/configs/$(CONFIG_DIR.$1)/$(STEM.$(VARIANT))_$(KIND.$1).py
work = $(WORK_DIR)$(CONFIG_DIR.$1)/$(STEM.$(VARIANT))_$(KIND.$1)
# What training leaves behind, under its documented name, and the name that everything later uses
trained = $(call work,$1)/$(if $(MAX_ITERS.$1),iter_$(MAX_ITERS.$1),epoch_$(or $(EPOCHS),$(EPOCHS.$1))).pth
ckpt = $(CKPT_DIR)$(STEM.$(VARIANT))_$(KIND.$1).pth
# The name under which the end-to-end model is deployed
DEPLOYED := $(CKPT_DIR)$(STEM.$(VARIANT))_$(KIND.2)_ep20.pth
results = $(if $(filter torch1.12,$(STACK)),$(UNIAD_TRAIN)/.steps/eval.$(VARIANT).$1,$(call work,$1)/results.json)

# Somebody who trained the first stage and asks for its scores or picture does not ask for days of the second. Where that was
# begun, or anything else is asked for, the same command must go on.
stage-there = $(if $(MAKECMDGOALS),$(if $(filter-out eval visualize infer,$(MAKECMDGOALS))$(wildcard $(call ckpt,2) $(call work,2)),2,$(if $(wildcard $(call ckpt,1)),1,2)),2)
$(call one-of,STAGE,$(STAGES))
$(if $(and $(filter file,$(origin STAGE)),$(filter 1,$(STAGE))),$(info stage 1: the only one with a checkpoint yet (`make train` goes on, STAGE=2 asks for the second)))

OPTIONS = $(DATA_OPTIONS) $(CFG_OPTIONS)
cfg-options = $(if $(strip $1),--cfg-options $(call qs,$1))
# A clip's length stands in three places of a config.
CLIP_OPTIONS := $(if $(QUEUE_LENGTH),$(addsuffix =$(QUEUE_LENGTH),queue_length model.queue_length data.train.queue_length))
# $(call train-options,stage), $(call train-flags,stage). Stage 2 starts from stage 1, whose place the config knows but for the demo.
train-options = $(OPTIONS) $(if $(EPOCHS),total_epochs=$(EPOCHS)) $(CLIP_OPTIONS) $(if $(filter 2,$1),$(if $(SUB),load_from=$(call ckpt,1)))
train-flags = --seed $(SEED) --precision $(TRAIN_PRECISION)$(if $(MAX_ITERS.$1), --max-iters $(MAX_ITERS.$1))$(if $(filter 1,$1),$(if $(filter 1,$(SCRATCH)), --from-scratch))

# One process needs no launcher; more, or more machines, go through torchrun.
# The script counts the GPUs of all machines.
ALL_GPUS := $(if $(filter 1,$(NNODES)),$(GPUS),$(shell echo $$(($(GPUS) * $(NNODES)))))
ALONE := $(if $(filter 0 1,$(GPUS)),$(if $(filter 1,$(or $(NNODES),1)),1))
TRAIN = $(if $(ALONE),$(RUN) tools/train.py $1,$(IN) tools/uniad_dist_train.sh $1 $(ALL_GPUS))
export NNODES NODE_RANK MASTER_ADDR MASTER_PORT
$(foreach v,NNODES NODE_RANK MASTER_PORT NODE_TIMEOUT,$(call whole,$v))
$(if $(filter-out 1,$(NNODES)),$(if $(MASTER_ADDR)$(filter slurm,$(MAKECMDGOALS)),,$(error NNODES=$(NNODES) needs MASTER_ADDR: the name or address of the machine with NODE_RANK=0)))

# The documented configs start from published weights.
INIT := $(if $(filter 0,$(SCRATCH)),$(INIT.$(VARIANT)))

# Configs by content: a fresh checkout touches files without changing them. Code is no prerequisite of a checkpoint, or
# days of training would be stale with every edit; it is one of what is made from the checkpoint.
CONFIG_SUM := $(shell cat $(wildcard projects/configs/_base_/*.py projects/configs/_base_/*/*.py projects/configs/*/*.py) | cksum)
code = $(foreach p,$1,$(wildcard projects/uniad/$p/*.py)) $(wildcard projects/uniad/*.py)

# What a run was asked to be. When that changes, the earlier run is set aside, never continued and never deleted.
define stage-rules
RUN_FLAGS.$(call work,$1) = $$(call train-flags,$1) $$(call train-options,$1) $$(TRAIN_ARGS) $$(CONFIG_SUM)

.PHONY: train-stage$1
train-stage$1: $(call trained,$1)

# Written whole or not at all: Ctrl-C in the last step must not have make remove it.
.PRECIOUS: $(call trained,$1)
$(call trained,$1): $(call config,$1) $(INFOS) $(if $(filter 1,$1),$(INIT),$(call ckpt,1) $(ANCHORS)) .make/var/RUN_FLAGS.$(call work,$1) | $(ENV)
	@$$(RUN) tools/claim_work_dir.py $$(call q,$(call work,$1)) $$< $$(call cfg-options,$$(call train-options,$1)) --flags=$$(call q,$$(call train-flags,$1) $$(TRAIN_ARGS)) --data $$(call q,$(INFOS))
	$$(call TRAIN,$$<) --work-dir $$(call q,$(call work,$1)) --resume auto $$(call train-flags,$1) $$(call cfg-options,$$(call train-options,$1)) $$(TRAIN_ARGS)
	@[[ -e $$@ ]] || cp $$(call q,$(call work,$1)/latest.pth) $$@
	@touch $$@

$(call ckpt,$1): $(call trained,$1)
	@mkdir -p $$(@D)
	cp $$< $$@.partial
	mv $$@.partial $$@

$(call work,$1)/results.json: $(call ckpt,$1) $(INFOS_VAL) $(call code,models ops evaluation data) $(wildcard projects/uniad/deploy/collision.py) .make/var/EVAL_FLAGS.$(call work,$1) | $(ENV)
	$$(IN) tools/uniad_dist_eval.sh $(call config,$1) $$< $$(or $$(filter-out 0,$$(GPUS)),1) --out $$@ $$(call cfg-options,$$(OPTIONS)) $$(EVAL_ARGS)
EVAL_FLAGS.$(call work,$1) = $$(OPTIONS) $$(EVAL_ARGS)
endef
ifeq ($(STACK),native)
$(foreach s,$(STAGES),$(eval $(call stage-rules,$s)))
endif

$(DEPLOYED): $(call ckpt,2)
	cp $< $@

CONFIG := $(call config,$(STAGE))
CKPT := $(call ckpt,$(STAGE))
RESULTS := $(call results,$(STAGE))
PROMOTED := $(foreach s,$(STAGES),$(call ckpt,$s)) $(DEPLOYED)

.PHONY: train promote eval eval-stage1 eval-stage2
train: $(PROMOTED) ## Train both stages and put each checkpoint in place; goes on where it was interrupted
train-stage1: ## Train stage 1 (tracking and map)
train-stage2: ## Train stage 2 (motion, occupancy, planning) on what stage 1 learnt
promote: $(PROMOTED) ## Copy the trained checkpoints to ckpts/ under their documented names
eval: $(RESULTS) ## Evaluate: detection, tracking, map; motion, occupancy and planning after stage 2
	@echo $(call q,$(RESULTS))
eval-stage1: $(call results,1) ## Evaluate the checkpoint of stage 1
eval-stage2: $(call results,2) ## Evaluate the checkpoint of stage 2
