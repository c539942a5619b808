##@ Jobs
# `make train ON=slurm|k8s|sky`: the same training as a job of a cluster. Nothing else of make is read: no machine here needs to have
# what the job's machines have.

$(call one-of,ON,slurm k8s sky)
JOB_GOALS := train train-stage1 train-stage2
$(if $(MAKECMDGOALS),,$(error ON=$(ON) submits a training: make train ON=$(ON)))
$(if $(filter-out $(JOB_GOALS) slurm,$(MAKECMDGOALS)),$(error ON=$(ON) is for $(subst $(space),$(comma) ,$(JOB_GOALS)): `make $(firstword $(filter-out $(JOB_GOALS),$(MAKECMDGOALS)))` runs here, without ON))
$(if $(word 2,$(MAKECMDGOALS)),$(error ON=$(ON) makes one job of one goal: `train` is both stages))
$(foreach v,NNODES $(if $(JOB_MINUTES),JOB_MINUTES),$(call positive,$v))
$(call whole,JOB_RESTARTS)

ifneq (slurm,$(ON))
$(if $(filter 0,$(GPUS)),$(if $(call given,GPUS),,$(error ON=$(ON) needs GPUS: how many a machine of the job has; this one has none)))
# A machine of these is a container already, and starts none.
$(if $(filter torch1.12,$(STACK)),$(error ON=$(ON) is for STACK=native: the upstream stack runs in a container that docker starts, and a job is one itself; ON=slurm can))
override RUNTIME := host
endif

# Settings as they were typed go to every machine. What says how to submit stays here. Slurm's machines see this very tree, so that
# what was configured in it holds for them; the tree of others has a configuration of its own.
TYPED := $(filter-out ON JOB_% NNODES NODE_RANK MASTER_ADDR SLURM_FLAGS MAKE%,$(foreach v,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $v))),$v)))
SENT := $(sort $(TYPED) VARIANT STACK RUNTIME GPUS $(if $(filter slurm,$(ON)),DATASET))
JOB := $(or $(JOB_NAME),$(subst _,-,$(subst .,-,uniad-$(VARIANT))))

.PHONY: train train-stage1 train-stage2 slurm
$(JOB_GOALS) slurm:
	@$(CONFIGURED_PYTHON) mk/lib/submit.py --on $(ON) --goal $(patsubst slurm,train,$@) --name $(call q,$(JOB)) --machines $(NNODES) --gpus $(GPUS) --gpu $(call q,$(JOB_GPU)) \
	  --image $(call q,$(JOB_IMAGE)) --storage $(call q,$(JOB_STORAGE)) --shm $(SHM.$(VARIANT)) $(if $(JOB_MINUTES),--minutes $(JOB_MINUTES)) --restarts $(JOB_RESTARTS) \
	  --flags=$(call q,$(JOB_FLAGS)) --out $(call q,outputs/jobs/$(JOB).json) $(if $(filter 1,$(JOB_PLAN)),--plan) -- $(foreach v,$(SENT),$(call q,$v=$($v)))
