##@ Training and evaluation

# Products of another world than nuScenes or the synthetic one (the demo) lie in a folder of its own below each place.
SUB := $(if $(filter demo,$(DATASET)),demo/)
WORK_DIR := projects/work_dirs/$(SUB)
CKPT_DIR := ckpts/$(SUB)

$(call one-of,TRAIN_PRECISION,fp32 tf32 bf16 fp16 auto)
$(call flag,FAST)
$(call whole,SEED)
$(foreach v,EPOCHS EPOCHS.1 EPOCHS.2 MAX_ITERS MAX_ITERS.1 MAX_ITERS.2 QUEUE_LENGTH,$(if $($v),$(call positive,$v)))
$(call flag,FROM_SCRATCH)
$(call flag,STAGE0)
$(call flag,RECIPE)
$(foreach s,$(STAGES),$(if $(and $(EPOCHS.$s),$(MAX_ITERS.$s)),$(error EPOCHS=$(EPOCHS.$s) and MAX_ITERS=$(MAX_ITERS.$s) both say how long to train: give one)))

# A world without published weights trains from nothing, unless told otherwise.
SCRATCH := $(or $(if $(filter 1,$(STAGE0)),0),$(FROM_SCRATCH),$(if $(filter nuscenes bench2drive,$(DATASET)),$(if $(INIT.$(VARIANT)),0,1),1))

# $(call config,stage), $(call work,stage): the config file, and the folder that training it writes to
config = projects/configs/$(CONFIG_DIR.$1)/$(STEM.$(VARIANT))_$(KIND.$1).py
work = $(WORK_DIR)$(CONFIG_DIR.$1)/$(STEM.$(VARIANT))_$(KIND.$1)
# What training leaves behind, under upstream's name, and the name that everything later uses
trained = $(call work,$1)/$(if $(RECIPE_USED),recipe,$(if $(MAX_ITERS.$1),iter_$(MAX_ITERS.$1),epoch_$(or $(EPOCHS.$1),$(SCHEDULE.$1)))).pth
# The recipe by which a model learns the synthetic world from nothing. Whoever says how long to train wants the plain schedule; one that
# continues this repository's own model has learnt most of it.
RECIPE_FILE := $(wildcard projects/configs/recipes/$(STEM.$(VARIANT)).py)
PLAIN_SCHEDULE := $(strip $(filter 0,$(RECIPE)) $(foreach s,$(STAGES),$(EPOCHS.$s) $(MAX_ITERS.$s)) $(QUEUE_LENGTH) $(filter-out 1,$(NNODES)) $(SHIPPED))
RECIPE_USED := $(if $(and $(filter synthetic,$(DATASET)),$(filter native,$(STACK)),$(filter 1,$(SCRATCH)),$(if $(PLAIN_SCHEDULE),,1)),$(RECIPE_FILE))
$(if $(filter 1,$(RECIPE)),$(if $(RECIPE_USED),,$(if $(filter train%,$(MAKECMDGOALS)),$(error RECIPE=1: a recipe trains $(if $(RECIPE_FILE),from nothing on DATASET=synthetic in the native stack (FROM_SCRATCH=1)$(comma) on one machine and without EPOCHS$(comma) MAX_ITERS or QUEUE_LENGTH,a variant that has one; projects/configs/recipes has no $(STEM.$(VARIANT)).py)))))
PACKS := $(DATA_DIR)/synthetic/packs/$(STEM.$(VARIANT))
ckpt = $(CKPT_DIR)$(STEM.$(VARIANT))_$(KIND.$1).pth
# What training leaves behind in the stack that is used
finished = $(if $(filter torch1.12,$(STACK)),$(UNIAD_TRAIN)/UniAD/projects/work_dirs/$(CONFIG_DIR.$1)/$(STEM.$(VARIANT))_$(KIND.$1)/$(notdir $(trained)),$(trained))
# The name under which the end-to-end model is deployed
DEPLOYED := $(CKPT_DIR)$(STEM.$(VARIANT))_$(KIND.2)_ep20.pth
results = $(if $(filter torch1.12,$(STACK)),$(UNIAD_TRAIN)/.steps/eval.$(VARIANT).$1,$(call work,$1)/results.json)

# --- what is there, and who made it -----------------------------------------------------------------------------------
# A note is said once: not where make is about to write config.mk and read its files anew
SAY := $(DRY_RUN)$(wildcard config.mk)
RECORDS := $(CONFIGURED_PYTHON) mk/lib/checkpoint_record.py
KNOWN := $(foreach s,0 $(STAGES),$(call ckpt,$s)) $(DEPLOYED) $(if $(filter torch1.12,$(STACK)),$(foreach s,$(STAGES),$(UNIAD_TRAIN)/UniAD/$(call ckpt,$s)))
# A checkpoint that no run in this tree made is a source: used, never trained for, never written over.
BROUGHT := $(if $(wildcard $(KNOWN)),$(shell $(RECORDS) brought $(call qs,$(wildcard $(KNOWN)))))
# Who asks for training gets it; who asks for what is made of a checkpoint gets it of the one that is there.
ASKED_TO_TRAIN := $(filter train train-stage% promote demo-steps,$(MAKECMDGOALS))
# $(call as-is,FILE): this checkpoint is taken as it lies there
as-is = $(or $(filter $1,$(BROUGHT)),$(if $(ASKED_TO_TRAIN),,$(wildcard $1)))

# `make promote` copies what is there, however a training would go on from it.
TO_PROMOTE = $(or $(strip $(foreach s,$(STAGES),$(if $(filter train-stage$s,$(MAKECMDGOALS)),$s))),$(strip $(foreach s,$(STAGES),$(if $(wildcard $(call finished,$s)),$s))))
KEPT := $(if $(filter-out promote,$(ASKED_TO_TRAIN)),,$(if $(ASKED_TO_TRAIN),$(foreach s,$(STAGES),$(wildcard $(call finished,$s)))))

# CKPT=FILE and CONFIG=FILE, from the command line alone. Products of them bear their names.
$(foreach v,CKPT CONFIG,$(call file-there,$v))
$(if $(CKPT)$(CONFIG),$(if $(ASKED_TO_TRAIN),$(error $(if $(CKPT),CKPT=$(CKPT),CONFIG=$(CONFIG)) says what to read; to train a config of your own name it as a variant (docs/configs.md)$(comma) or use tools/train.py)))
FOREIGN := $(strip $(if $(filter-out $(abspath $(KNOWN)),$(abspath $(CKPT))),$(basename $(notdir $(CKPT)))) $(basename $(notdir $(CONFIG))))
NAME = $(or $(subst $(space),.,$(FOREIGN)),$(STEM.$(VARIANT))_$(KIND.$(STAGE)))

# Somebody who trained the first stage and asks for its scores or picture does not ask for days of the second. Where that was
# begun, or anything else is asked for, the same command must go on.
stage-there = $(or $(if $(CKPT)$(CONFIG),$(EVAL_STAGES)),$(if $(filter $(abspath $(call ckpt,1)),$(abspath $(CKPT))),1,$(if $(CKPT),2,$(stage-begun))))
EVAL_STAGES := $(patsubst eval-stage%,%,$(filter eval-stage%,$(MAKECMDGOALS)))
stage-begun = $(if $(MAKECMDGOALS),$(if $(filter-out eval visualize view infer,$(MAKECMDGOALS))$(wildcard $(call ckpt,2) $(DEPLOYED) $(call work,2)),2,$(if $(wildcard $(call ckpt,1) $(call finished,1)),1,2)),2)
$(if $(CKPT)$(CONFIG),$(foreach s,$(EVAL_STAGES),$(if $(call same,$s,$(STAGE)),,$(error CKPT and CONFIG are of one stage: eval-stage$s and STAGE=$(STAGE) name two))))
$(call one-of,STAGE,$(if $(wildcard $(call config,0)),0) $(STAGES))
$(if $(and $(filter file,$(origin STAGE)),$(filter 1,$(STAGE)),$(if $(CKPT)$(EVAL_STAGES),,1)),$(if $(SAY),$(info stage 1: the only one with a checkpoint yet (`make train` goes on, STAGE=2 asks for the second))))

# RANDOM_WEIGHTS=1: nobody trains; what is made of the weights has a name of its own, upstream's for tiny, so that it is neither
# mistaken for what was trained nor written over it.
$(if $(RANDOM_WEIGHTS),$(call one-of,RANDOM_WEIGHTS,0 1))
RANDOM_CKPT := $(if $(filter 1,$(RANDOM_WEIGHTS)),$(CKPT_DIR)random/$(STEM.$(VARIANT))_$(KIND.$(STAGE)).pth)
ifneq (,$(RANDOM_CKPT))
  $(if $(CKPT),$(error RANDOM_WEIGHTS=1 and CKPT=$(CKPT) both say which weights: give one))
  $(if $(filter-out demo-steps,$(ASKED_TO_TRAIN))$(filter eval%,$(MAKECMDGOALS)),$(error RANDOM_WEIGHTS=1 is for export, verify, engine and the like: random weights are neither trained nor scored))
  FOREIGN := uniad_$(VARIANT)$(if $(filter 1,$(STAGE)),_track_map)_dummy
$(RANDOM_CKPT): $(call config,$(STAGE)) $(if $(filter 2,$(STAGE)),$(ANCHORS)) .make/var/RANDOM_FLAGS | $(ENV)
	$(RUN) tools/make_random_weights.py $< --out $@ $(RANDOM_FLAGS)
RANDOM_FLAGS = --seed $(SEED) $(call cfg-options,$(OPTIONS))
endif

# $(call read,stage): the checkpoint that is evaluated, drawn and run. The deployed one, where somebody brought that.
# In a container a file from elsewhere is known by its whole path, and its folder is mounted there.
here-or-whole = $(if $(filter host,$(TOOLS_RUNTIME)),$1,$(if $(filter $(realpath .)/%,$(realpath $1)),$1,$(or $(realpath $1),$1)))
ELSEWHERE = $(sort $(foreach f,$(CKPT) $(CONFIG) $(wildcard $(KNOWN) $(RAW.$(VARIANT)) $(INIT.$(VARIANT))),$(if $(filter $(realpath .)/%,$(realpath $f)),,$(patsubst %/,%,$(dir $(call place,$f))))))
read = $(if $(filter 2,$1),$(or $(if $(ASKED_TO_TRAIN),,$(or $(filter $(DEPLOYED),$(BROUGHT)),$(wildcard $(call ckpt,2)),$(wildcard $(DEPLOYED)),$(SHIPPED))),$(call ckpt,2)),$(call ckpt,$1))
READ := $(call here-or-whole,$(or $(RANDOM_CKPT),$(CKPT),$(call read,$(STAGE))))
READ_CONFIG := $(call here-or-whole,$(or $(CONFIG),$(call config,$(STAGE))))
read-for = $(if $(filter $1,$(STAGE)),$(READ),$(call read,$1))
READERS := $(filter eval eval-stage% export verify compare-sampling visualize view infer $(if $(ASSESS_SAID),robust audit drive) engine quantize jetson-engine,$(MAKECMDGOALS))
# A link to nothing, such as one to a disk that is not mounted, is somebody's file too: neither missing nor to be replaced.
LINKED := $(KNOWN) $(RAW.$(VARIANT)) $(INIT.$(VARIANT)) $(if $(filter torch1.12,$(STACK)),$(addprefix $(UNIAD_TRAIN)/UniAD/,$(RAW.$(VARIANT)) $(INIT.$(VARIANT)))) $(ANCHORS) $(INFOS) $(INFOS_VAL)
LOST := $(if $(READERS)$(ASKED_TO_TRAIN)$(filter data weights init-weights anchors metadata endurance,$(MAKECMDGOALS)),$(shell for f in $(call qs,$(LINKED)); do [ ! -L "$$f" ] || [ -e "$$f" ] || echo "$$f"; done))
$(foreach f,$(LOST),$(error $f is a link to $(shell readlink $(call q,$f)), which is not there: mount or mend it, or remove the link))
$(if $(READERS),$(if $(and $(filter $(READ),$(BROUGHT)),$(filter $(DEPLOYED),$(READ)),$(wildcard $(call ckpt,2))),$(if $(SAY),$(info $(READ): brought here, and taken; CKPT=$(call ckpt,2) takes the other))))
$(if $(filter train promote,$(MAKECMDGOALS)),$(foreach f,$(BROUGHT),$(if $(SAY),$(info $f: brought here, not trained: it stays as it is, and is used. To train in its place move it away))))

OPTIONS = $(DATA_OPTIONS) $(COMPAT_OPTIONS) $(CFG_OPTIONS)
cfg-options = $(if $(strip $1),--cfg-options $(call qs,$1))
# A clip's length stands in three places of a config.
CLIP_OPTIONS := $(if $(QUEUE_LENGTH),$(addsuffix =$(QUEUE_LENGTH),queue_length model.queue_length data.train.queue_length))
# What a config starts from has another name in a container, where it is a link that leads out of the tree.
moved = $(if $(filter-out $1,$(call here-or-whole,$1)),load_from=$(call here-or-whole,$1))
# What stage 2 starts from: stage 1, or the repository's own model where no stage 1 is there or asked for
START := $(or $(if $(wildcard $(call ckpt,1) $(call finished,1))$(filter train-stage1,$(MAKECMDGOALS)),,$(SHIPPED)),$(call ckpt,1))
$(if $(and $(filter $(SHIPPED),$(START)),$(filter train train-stage2,$(MAKECMDGOALS))),$(if $(SAY),$(info $(SHIPPED): this repository's own model is trained on; FROM_SCRATCH=1 trains both stages from nothing)))
# $(call train-options,stage), $(call train-flags,stage). The config knows the place of stage 1 but for the demo.
train-options = $(OPTIONS) $(if $(EPOCHS.$1),total_epochs=$(EPOCHS.$1)) $(CLIP_OPTIONS) $(if $(filter 2,$1),$(if $(SUB)$(filter $(SHIPPED),$(START)),load_from=$(call here-or-whole,$(START)),$(call moved,$(START))),$(if $(filter 1,$(STAGE0)),load_from=$(call here-or-whole,$(INIT)),$(if $(INIT),$(call moved,$(INIT)))))
how-flags = $(if $(filter-out auto,$(TRAIN_PRECISION)), --precision $(TRAIN_PRECISION))$(if $(filter 0,$(FAST)), --no-fast)
train-flags = --seed $(SEED)$(how-flags)$(if $(MAX_ITERS.$1), --max-iters $(MAX_ITERS.$1))$(if $(filter 1,$1),$(if $(filter 1,$(SCRATCH)), --from-scratch))

# One process needs no launcher; more, or more machines, go through torchrun.
# The script counts the processes of all machines.
HERE := $(if $(filter 0,$(GPUS)),$(CPU_PROCESSES),$(GPUS))
EVERYWHERE := $(if $(filter 1,$(NNODES)),$(HERE),$(shell echo $$(($(HERE) * $(NNODES)))))
ON_CPU := $(if $(filter 0,$(GPUS)), --device cpu)
TRAIN = $(if $(filter 1,$(EVERYWHERE)),$(RUN) tools/train.py $1,$(IN) tools/uniad_dist_train.sh $1 $(EVERYWHERE))$(ON_CPU)
export NNODES NODE_RANK MASTER_ADDR MASTER_PORT
$(foreach v,NNODES MASTER_PORT NODE_TIMEOUT,$(call positive,$v))
$(call whole,NODE_RANK)
$(if $(filter-out 28599,$(MASTER_PORT)),$(call at-most,MASTER_PORT,65535))
$(if $(filter-out 0,$(NODE_RANK)),$(if $(call below,$(NODE_RANK),$(NNODES)),,$(error NODE_RANK=$(NODE_RANK) is none of NNODES=$(NNODES): machines are numbered from 0)))
$(if $(filter-out 1,$(NNODES)),$(if $(MASTER_ADDR)$(filter slurm,$(MAKECMDGOALS)),,$(error NNODES=$(NNODES) needs MASTER_ADDR: the name or address of the machine with NODE_RANK=0)))

# GPUs that are not there would be taken for processes on the CPU. A dry run may plan for another machine, as does a Slurm job.
USES_GPUS := train% promote eval% demo% export verify engine quantize jetson-engine visualize view infer robust audit drive
GPUS_ASKED := $(and $(call given,GPUS),$(filter native,$(STACK)),$(filter-out 0,$(GPUS)),$(filter $(USES_GPUS),$(MAKECMDGOALS)))
ifeq ($(DRY_RUN)$(findstring --device cpu,$(TRAIN_ARGS)),)
ifneq (,$(GPUS_ASKED))
GPUS_HERE := $(words $(shell nvidia-smi --query-gpu=uuid --format=csv,noheader 2>/dev/null))
$(if $(call below,$(GPUS_HERE),$(GPUS)),$(error GPUS=$(GPUS) but this machine shows $(or $(filter-out 0,$(GPUS_HERE)),no) NVIDIA GPU$(if $(filter 1,$(GPUS_HERE)),,s) (nvidia-smi): on the CPU it is GPUS=0$(if $(filter 1,$(GPUS)),, CPU_PROCESSES=$(GPUS))))
endif
endif

# Upstream's configs start from published weights.
INIT := $(if $(filter 1,$(STAGE0)),$(call ckpt,0),$(if $(filter 0,$(SCRATCH)),$(INIT.$(VARIANT))))

# Code is no prerequisite of a checkpoint, or days of training would be stale with every edit; it is one of what is made from
# the checkpoint: $(call code,tool) is the tool and the packages that it imports, $(call code,tool+graph) those that it comes to where
# it runs a graph instead of PyTorch. Imports are read once, and not for goals that make none of these.
CODE = $(eval CODE := $(shell $(CONFIGURED_PYTHON) mk/lib/imports.py))$(CODE)
USE_NO_CODE := $(BARE) env data anchors weights init-weights preflight train train-stage% promote image images contexts shell test% lint golden
code = $(if $(filter-out $(USE_NO_CODE),$(MAKECMDGOALS)),$(wildcard $(patsubst $1|%,%,$(filter $1|%,$(CODE)))))

# A run is what its numbers depend on: resolved config, seed, precision, length, data, the weights that it starts from
# (mk/lib/claim_work_dir.py). Another one in the same place is set aside, never continued and never deleted. Of several machines
# the first one looks.
# $(call work-dir-record,action,folder,what it reads,arguments of tools/train.py)
work-dir-record = $(CONFIGURED_PYTHON) mk/lib/claim_work_dir.py $1 $(call q,$2) --reads $(call qs,$3) -- $4
# $(call claim-run,folder,what it reads,arguments of tools/train.py): holds the folder for this recipe, and makes it this run's
claim-run = $(if $(filter 0,$(NODE_RANK)),$(call hold,$1.lock,training in $1) && $(call work-dir-record,claim,$1,$2,$3),true)
# $(call trained-or-error,file,hint)
trained-or-error = [[ -e $1 ]] || { echo 'error: training ended without $1'$2 >&2; exit 1; }
# $(call other-run,the same): FORCE where the folder holds another run
other-run = $(if $(wildcard $2/run.json),$(if $(filter same,$(shell $(call work-dir-record,state,$2,$3,$4))),,FORCE))

# native.cpu=1.0,0.5 of the variant's row, as two words
RECIPE_PACE := $(if $(filter native.cpu=%,$(PACE.$(VARIANT))),--pace $(subst $(comma), ,$(patsubst native.cpu=%,%,$(filter native.cpu=%,$(PACE.$(VARIANT))))))
# Rules of a stage: its training, its name in ckpts, its scores
define stage-rules
reads.$1 := $(INFOS) $(if $(filter 1,$1),$(INIT),$(START) $(ANCHORS))
train-words.$1 = $(call config,$1) $$(call train-flags,$1) $$(call cfg-options,$$(call train-options,$1)) $$(TRAIN_ARGS)

.PHONY: train-stage$1
train-stage$1: $(call trained,$1)

# Written whole or not at all: Ctrl-C in the last step must not have make remove it.
.PRECIOUS: $(call trained,$1)
ifneq (,$(RECIPE_USED))
# Finished phases are left alone, so that the tool may be asked again whenever the recipe's file is newer.
$(call trained,$1): $(if $(filter $(call finished,$1),$(KEPT)),,$(RECIPE_USED) $(if $(filter 2,$1),$(START) $(ANCHORS)) .make/var/RECIPE_FLAGS.$1) | $(ENV)
	$$(call hold,$(call work,$1).lock,training in $(call work,$1)) && $(RUN) tools/train_recipe.py $(RECIPE_USED) --stage $1 --work-dir $$(call q,$(call work,$1)) --out $$@ --jobs $(JOBS) $(RECIPE_PACE) $$(RECIPE_FLAGS.$1)
	@touch $$@
else
$(call trained,$1): $(if $(filter $(call finished,$1),$(KEPT)),,$$(reads.$1) $(if $(call training,$1),$$(call other-run,,$(call work,$1),$$(reads.$1),$$(train-words.$1))) | $(ENV))
	$$(call claim-run,$(call work,$1),$$(reads.$1),$$(train-words.$1)) $$(continued)$$(call TRAIN,$(call config,$1)) --work-dir $$(call q,$(call work,$1)) --resume auto $$(call train-flags,$1) $$(call cfg-options,$$(call train-options,$1)) $$(TRAIN_ARGS)
	@$$(call trained-or-error,$$@,)
	@touch $$@
endif
RECIPE_FLAGS.$1 = $$(strip $(if $(filter 2,$1),--load-from $$(call q,$$(call here-or-whole,$(START)))) --packs $(PACKS) --seed $(SEED) $(if $(filter-out 0 1,$(HERE)),--gpus $(HERE))$(ON_CPU) \
  $(if $(filter-out auto,$(TRAIN_PRECISION)),--precision $(TRAIN_PRECISION)) $$(call cfg-options,$$(OPTIONS)) $(if $(TRAIN_ARGS)$(filter 0,$(FAST)),-- $(if $(filter 0,$(FAST)),--no-fast )$$(TRAIN_ARGS)))

$(if $(call as-is,$(call ckpt,$1)),,$(call ckpt,$1): $(call trained,$1)
	@$(RECORDS) copy $$(call q,$$<) $$(call q,$$@))

$(call results,$1): $(call read-for,$1) $(INFOS_VAL) $$$$(call code,test) .make/var/EVAL_FLAGS.$(call work,$1) | $(ENV)
	$$(EVALUATE)
EVAL_FLAGS.$(call work,$1) = $(call config,$1) $(call read-for,$1) $$(OPTIONS) $$(EVAL_ARGS)
$(call results,$1): private EVAL_CONFIG = $(call config,$1)
endef
# Whether this make may train the stage
training = $(or $(ASKED_TO_TRAIN),$(if $(wildcard $(call ckpt,$1)),,1))
EVALUATE = $(IN) tools/uniad_dist_eval.sh $(EVAL_CONFIG) $(call q,$<) $(HERE)$(ON_CPU)$(EVAL_BACKEND) --out $(call q,$@) $(call cfg-options,$(OPTIONS)) $(EVAL_ARGS)
EVAL_BACKEND :=
ifeq ($(STACK),native)
$(foreach s,$(STAGES),$(eval $(call stage-rules,$s)))

# Stage 0 trains the BEV encoder that stage 1 starts from, which else is downloaded. One goal, its checkpoint under its name.
.PHONY: train-stage0
ifneq (,$(wildcard $(call config,0)))
# One that make can fetch need not be there yet.
$(if $(filter $(foreach v,$(VARIANTS),$(BACKBONE.$v)),$(BACKBONE)),,$(call file-there,BACKBONE))
BACKBONE_USED := $(or $(BACKBONE),$(if $(filter 1,$(FROM_SCRATCH)),,$(if $(filter nuscenes,$(DATASET)),$(BACKBONE.$(VARIANT)))))
trained-0 := $(call work,0)/$(if $(MAX_ITERS.0),iter_$(MAX_ITERS.0),epoch_$(or $(EPOCHS.0),$(SCHEDULE.0))).pth
reads-0 := $(INFOS) $(BACKBONE_USED)
train-flags-0 = --seed $(SEED)$(how-flags)$(if $(MAX_ITERS.0), --max-iters $(MAX_ITERS.0))$(if $(BACKBONE_USED),, --from-scratch)
train-options-0 = $(OPTIONS) $(if $(EPOCHS.0),total_epochs=$(EPOCHS.0)) $(if $(QUEUE_LENGTH),queue_length=$(QUEUE_LENGTH) data.train.queue_length=$(QUEUE_LENGTH)) $(if $(BACKBONE_USED),load_from=$(call here-or-whole,$(BACKBONE_USED)))
train-words-0 = $(call config,0) $(train-flags-0) $(call cfg-options,$(train-options-0)) $(TRAIN_ARGS)
train-stage0: $(call ckpt,0) ## Train stage 0, BEVFormer, from an image backbone (BACKBONE): what stage 1 starts from with STAGE0=1
ifeq (,$(call as-is,$(call ckpt,0)))
$(call ckpt,0): $(trained-0)
	@$(RECORDS) copy $(call q,$<) $(call q,$@)
endif
.PRECIOUS: $(trained-0)
$(trained-0): $(reads-0) $(if $(ASKED_TO_TRAIN),$(call other-run,,$(call work,0),$(reads-0),$(train-words-0))) | $(ENV)
	$(call claim-run,$(call work,0),$(reads-0),$(train-words-0))$(continued)$(call TRAIN,$(call config,0)) --work-dir $(call q,$(call work,0)) --resume auto $(train-flags-0) $(call cfg-options,$(train-options-0)) $(TRAIN_ARGS)
	@$(call trained-or-error,$@,)
	@touch $@
$(call results,0): $(call read-for,0) $(INFOS_VAL) $$(call code,test) .make/var/EVAL_FLAGS.$(call work,0) | $(ENV)
	$(EVALUATE)
EVAL_FLAGS.$(call work,0) = $(call config,0) $(call read-for,0) $(OPTIONS) $(EVAL_ARGS)
$(call results,0): private EVAL_CONFIG = $(call config,0)
else
train-stage0:
	@echo 'error: VARIANT=$(VARIANT) has no stage 0: $(call config,0) is not there' >&2; exit 2
endif
endif

# The end-to-end model's name in deployment: a copy, unless somebody brought that one
DEPLOY_FROM := $(if $(filter $(DEPLOYED),$(BROUGHT)),,$(if $(or $(ASKED_TO_TRAIN),$(wildcard $(call ckpt,2)),$(if $(wildcard $(DEPLOYED))$(SHIPPED),,1)),$(call ckpt,2)))
ifneq (,$(DEPLOY_FROM))
$(DEPLOYED): $(DEPLOY_FROM) $(if $(and $(wildcard $(DEPLOYED)),$(wildcard $(DEPLOY_FROM))),$(if $(shell $(RECORDS) stale $(call qs,$(DEPLOY_FROM) $(DEPLOYED))),FORCE))
	@$(RECORDS) copy $(call q,$<) $(call q,$@)
endif

# A checkpoint, or a config, of somebody's own
RESULTS := $(if $(and $(FOREIGN),$(filter native,$(STACK))),outputs/$(SUB)eval/$(NAME).json,$(call results,$(STAGE)))
ifneq (,$(and $(FOREIGN),$(filter native,$(STACK))))
$(RESULTS): $(READ) $(READ_CONFIG) $(INFOS_VAL) $$(call code,test) .make/var/EVAL_FLAGS.$(RESULTS) | $(ENV)
	$(EVALUATE)
$(RESULTS): private EVAL_CONFIG = $(READ_CONFIG)
EVAL_FLAGS.$(RESULTS) = $(READ_CONFIG) $(READ) $(OPTIONS) $(EVAL_ARGS)
endif
# A graph, or the checkpoint in another back end than PyTorch, has scores of its own, beside those of the checkpoint (mk/infer.mk).
EVALUATED := $(if $(filter-out torch,$(BACKEND)),outputs/$(SUB)eval/$(NAME).$(BACKEND).json,$(RESULTS))
$(if $(and $(BACKEND),$(EVAL_STAGES)),$(error BACKEND=$(BACKEND): the stage is said by STAGE: make eval STAGE=$(firstword $(EVAL_STAGES)) BACKEND=$(BACKEND)))
stage-results = $(if $(CKPT)$(CONFIG),$(RESULTS),$(call results,$1))
PROMOTED := $(if $(filter $(SHIPPED),$(START)),,$(call ckpt,1)) $(call ckpt,2) $(DEPLOYED)

# What was trained, or is to be by the same command, and no more
PROMOTES := $(if $(filter train demo-steps,$(MAKECMDGOALS)),$(PROMOTED),$(foreach s,$(TO_PROMOTE),$(call ckpt,$s)) $(if $(filter 2,$(TO_PROMOTE)),$(DEPLOYED)))
$(if $(filter promote,$(MAKECMDGOALS)),$(if $(strip $(PROMOTES)),,$(error promote: nothing was trained yet ($(call finished,1) is not there): `make train-stage1` or `make train`; of a run of another length give its EPOCHS or MAX_ITERS too)))

.PHONY: train promote eval eval-stage0 eval-stage1 eval-stage2
train: $(PROMOTED) ## Train both stages and put each checkpoint in place; goes on where it was interrupted
train-stage1: ## Train stage 1 (tracking and map)
train-stage2: ## Train stage 2 (motion, occupancy, planning) on what stage 1 learnt
promote: $(PROMOTES) ## Copy what was trained to ckpts/ under upstream's names; trains nothing
eval: $(EVALUATED) ## Evaluate what was trained, or a published CKPT=FILE: boxes, tracks, map, motion, plan; by a BACKEND
	@echo $(call q,$(EVALUATED))
eval-stage0: $(call stage-results,0) ## Evaluate the checkpoint of stage 0: NDS and mAP
eval-stage1: $(call stage-results,1) ## Evaluate the checkpoint of stage 1
eval-stage2: $(call stage-results,2) ## Evaluate the checkpoint of stage 2

# The logs of all stages, and of a recipe's phases; RUNS='A B' are others.
$(if $(RUNS),$(foreach r,$(RUNS),$(if $(wildcard $r),,$(error RUNS=$(RUNS): $r is not there; name work directories of trainings))))
$(if $(call holds,$(RUNS),: % =),$(error RUNS=$(RUNS) cannot be used: a path may hold no colon, percent or equals sign))
LOGGED = $(or $(RUNS),$(strip $(foreach s,0 $(STAGES),$(if $(wildcard $(call work,$s)/train.jsonl $(call work,$s)/*/train.jsonl),$(call work,$s)))))
CURVES := outputs/$(SUB)$(if $(RUNS),curves,$(STEM.$(VARIANT)).curves).png
.PHONY: plot
plot: | $(ENV) ## Draw the losses of the trainings here, part by part: outputs/NAME.curves.png; RUNS='DIR DIR' of others
	$(if $(LOGGED),,$(error plot: VARIANT=$(VARIANT) was not trained here yet ($(call work,1)); `make train` writes what it draws, RUNS=DIR names another))
	$(RUN) tools/plot_training.py $(call qs,$(LOGGED)) --out $(call q,$(CURVES)) $(PLOT_ARGS)
