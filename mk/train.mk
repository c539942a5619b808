##@ Training and evaluation

# Products of another world than nuScenes or the synthetic one (the demo) lie in a folder of its own below each place.
SUB := $(if $(filter demo,$(DATASET)),demo/)
WORK_DIR := projects/work_dirs/$(SUB)
CKPT_DIR := ckpts/$(SUB)

$(call one-of,TRAIN_PRECISION,fp32 tf32 bf16 fp16)
$(call one-of,STAGE,$(STAGES))
$(call whole,SEED)
$(if $(EPOCHS),$(call whole,EPOCHS))
$(if $(MAX_ITERS),$(call whole,MAX_ITERS))
$(if $(QUEUE_LENGTH),$(call whole,QUEUE_LENGTH))
$(if $(FROM_SCRATCH),$(call one-of,FROM_SCRATCH,0 1))
$(if $(and $(EPOCHS),$(MAX_ITERS)),$(error EPOCHS=$(EPOCHS) and MAX_ITERS=$(MAX_ITERS) both say how long to train: give one))

# A world without published weights trains from nothing, unless told otherwise.
SCRATCH := $(or $(FROM_SCRATCH),$(if $(filter nuscenes,$(DATASET)),$(if $(INIT.$(VARIANT)),0,1),1))

# $(call config,stage), $(call work,stage): the config file, and the folder that training it writes to
config = projects/configs/$(CONFIG_DIR.$1)/$(STEM.$(VARIANT))_$(KIND.$1).py
work = $(WORK_DIR)$(CONFIG_DIR.$1)/$(STEM.$(VARIANT))_$(KIND.$1)
# What training leaves behind, under its documented name, and the name that everything later uses
trained = $(call work,$1)/$(if $(MAX_ITERS),iter_$(MAX_ITERS),epoch_$(or $(EPOCHS),$(EPOCHS.$1))).pth
ckpt = $(CKPT_DIR)$(STEM.$(VARIANT))_$(KIND.$1).pth

OPTIONS = $(DATA_OPTIONS) $(CFG_OPTIONS)
cfg-options = $(if $(strip $1),--cfg-options $(call qs,$1))
# A clip's length stands in three places of a config.
CLIP_OPTIONS := $(if $(QUEUE_LENGTH),$(addsuffix =$(QUEUE_LENGTH),queue_length model.queue_length data.train.queue_length))
TRAIN_OPTIONS = $(OPTIONS) $(if $(EPOCHS),total_epochs=$(EPOCHS)) $(CLIP_OPTIONS)
TRAIN_FLAGS = --seed $(SEED) --precision $(TRAIN_PRECISION)$(if $(MAX_ITERS), --max-iters $(MAX_ITERS))$(if $(filter 1,$(SCRATCH)), --from-scratch)

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
RUN_FLAGS.$(call work,$1) = $$(TRAIN_FLAGS) $$(TRAIN_OPTIONS) $$(TRAIN_ARGS) $$(CONFIG_SUM)

.PHONY: train-stage$1
train-stage$1: $(call trained,$1)

$(call trained,$1): $(call config,$1) $(INFOS) $(if $(filter 1,$1),$(INIT),$(call ckpt,1) $(ANCHORS)) .make/var/RUN_FLAGS.$(call work,$1) | $(ENV)
	@$$(RUN) tools/claim_work_dir.py $$(call q,$(call work,$1)) $$< $$(call cfg-options,$$(TRAIN_OPTIONS)) --flags=$$(call q,$$(TRAIN_FLAGS) $$(TRAIN_ARGS)) --data $$(call q,$(INFOS))
	$$(call TRAIN,$$<) --work-dir $$(call q,$(call work,$1)) --resume auto $$(TRAIN_FLAGS) $$(call cfg-options,$$(TRAIN_OPTIONS)) $$(TRAIN_ARGS)
	@[[ -e $$@ ]] || cp $$(call q,$(call work,$1)/latest.pth) $$@
	@touch $$@

$(call ckpt,$1): $(call trained,$1)
	@mkdir -p $$(@D)
	cp $$< $$@.partial
	mv $$@.partial $$@

$(call work,$1)/results.json: $(call ckpt,$1) $(INFOS_VAL) $(call code,models ops evaluation data) .make/var/EVAL_FLAGS.$(call work,$1) | $(ENV)
	$$(IN) tools/uniad_dist_eval.sh $(call config,$1) $$< $$(or $$(filter-out 0,$$(GPUS)),1) --out $$@ $$(call cfg-options,$$(OPTIONS)) $$(EVAL_ARGS)
EVAL_FLAGS.$(call work,$1) = $$(OPTIONS) $$(EVAL_ARGS)
endef
ifeq ($(STACK),native)
$(foreach s,$(STAGES),$(eval $(call stage-rules,$s)))
endif

CONFIG := $(call config,$(STAGE))
CKPT := $(call ckpt,$(STAGE))
RESULTS := $(if $(filter torch1.12,$(STACK)),$(UNIAD_TRAIN)/.steps/eval.$(VARIANT).$(STAGE),$(call work,$(STAGE))/results.json)

.PHONY: train promote eval
train: $(foreach s,$(STAGES),$(call ckpt,$s)) ## Train all stages and put each checkpoint in place; goes on where it was interrupted
train-stage1: ## Train stage 1 (tracking and map)
promote: $(foreach s,$(STAGES),$(call ckpt,$s)) ## Copy the trained checkpoints to ckpts/ under their documented names
eval: $(RESULTS) ## Evaluate: NDS, mAP, AMOTA, map IoU on the validation split
	@echo $(call q,$(RESULTS))
